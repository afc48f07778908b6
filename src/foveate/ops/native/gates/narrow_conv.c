/* Convolution of maps of few channels, with stride one and zeros around the map.
 *
 * Libraries give every channel a vector's lane, and so leave most lanes empty here; this has
 * neighbouring columns in the lanes. A work item is a strip of rows of an image: its input is copied
 * with a border of zeros, and nothing after that looks at the border. The gradient of the input is
 * the convolution of the output's with the weight turned by half; that of the weight is kept an item
 * and added up in the items' order, whatever the count of threads.
 */
#include "rows.h"

typedef fv_narrow_conv_arguments fv_arguments;

enum { STRIP = 16, WIDE = 8 }; /* rows of a strip; vectors that are summed at once */

/* A strip of a map: [channel][row][column], padded with zeros. */
typedef struct {
  float *data;
  ptrdiff_t channel, row;
} fv_strip;

typedef struct {
  int64_t strips;
  ptrdiff_t row, floats; /* of a padded line, of a padded channel of a strip */
} fv_sizes;

static fv_sizes sizes_of(const fv_arguments *a) {
  const ptrdiff_t row = fv_round_up(a->width, WIDE * L) + fv_round_up(a->kernel_w, L);
  return (fv_sizes){(a->height + STRIP - 1) / STRIP, row, (STRIP + a->kernel_h - 1) * row};
}

/* Rows from `first` on, with the border that a centred kernel needs, of all channels of an image. */
static fv_strip padded(const fv_arguments *a, const fv_sizes *s, const fv_view *from,
                       int64_t channels, int64_t b, int64_t first, float *memory) {
  const int64_t top = a->kernel_h / 2, left = a->kernel_w / 2, lines = STRIP + a->kernel_h - 1;
  memset(memory, 0, (size_t)(channels * s->floats) * sizeof(float));
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t y = first - top + i;
      if (y < 0 || y >= a->height) continue;
      const float *line = place(from, b, y, 0) + c * from->head;
      memcpy(memory + c * s->floats + i * s->row + left, line, (size_t)a->width * sizeof(float));
    }
  return (fv_strip){memory, s->floats, s->row};
}

/* Some vectors of a row of one output channel; the weight is [channel][kh][kw]. */
FV_INLINE void convolve(const fv_strip *x, const float *weight, int64_t channels, int64_t kernel_h,
                        int64_t kernel_w, const int vectors, ptrdiff_t at, fv_f *sums) {
  for (int v = 0; v < vectors; ++v) sums[v] = (fv_f){0};
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < kernel_h; ++i) {
      const float *line = x->data + c * x->channel + i * x->row + at;
      for (int64_t j = 0; j < kernel_w; ++j) {
        const fv_f w = fv_set(*weight++);
        for (int v = 0; v < vectors; ++v) sums[v] += w * fv_load(line + j + v * L);
      }
    }
}

static void convolve_row(const fv_arguments *a, const fv_strip *x, const float *weight,
                         int64_t channels, ptrdiff_t line, float *out) {
  for (int64_t n = 0; n < a->width;) {
    fv_f sums[WIDE];
    const int64_t left = a->width - n;
    const int vectors = left > 4 * L ? WIDE : left > 2 * L ? 4 : left > L ? 2 : 1;
#define CASE(count)                                                                            \
  case count:                                                                                  \
    if (a->kernel_h == 7 && a->kernel_w == 7)                                                  \
      convolve(x, weight, channels, 7, 7, count, line + n, sums);                              \
    else                                                                                       \
      convolve(x, weight, channels, a->kernel_h, a->kernel_w, count, line + n, sums);          \
    break
    switch (vectors) {
      CASE(8);
      CASE(4);
      CASE(2);
      CASE(1);
    }
#undef CASE
    for (int v = 0; v < vectors && n < a->width; ++v, n += L)
      store_at(out, n, a->width, a->width, sums[v]);
  }
}

/* All output channels of a strip; the weight is [out][in][kh][kw]. */
static void convolve_strip(const fv_arguments *a, const fv_strip *x, const float *weight,
                           int64_t in, int64_t out, int64_t b, int64_t first, float *to) {
  const int64_t end = first + STRIP < a->height ? first + STRIP : a->height;
  for (int64_t c = 0; c < out; ++c)
    for (int64_t y = first; y < end; ++y)
      convolve_row(a, x, weight + c * in * a->kernel_h * a->kernel_w, in, (y - first) * x->row,
                   to + ((b * out + c) * a->height + y) * a->width);
}

/* Some taps of a row of the kernel: the sums of gradient times input. */
FV_INLINE void correlate(const float *g, const float *x, int64_t rows, ptrdiff_t row, int64_t width,
                         const int taps, float *to) {
  fv_f sums[WIDE];
  for (int j = 0; j < taps; ++j) sums[j] = (fv_f){0};
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t n = 0; n < width; n += L) {
      const fv_f v = fv_load(g + y * row + n);
      for (int j = 0; j < taps; ++j) sums[j] += v * fv_load(x + y * row + n + j);
    }
  for (int j = 0; j < taps; ++j) to[j] = sum_of(sums[j]);
}

/* The share of a strip in the gradient of the weight. */
static void weight_gradient(const fv_arguments *a, const fv_strip *x, const fv_strip *g,
                            int64_t rows, float *to) {
  const ptrdiff_t centre = a->kernel_h / 2 * g->row + a->kernel_w / 2;
  for (int64_t o = 0; o < a->out_channels; ++o)
    for (int64_t c = 0; c < a->in_channels; ++c)
      for (int64_t i = 0; i < a->kernel_h; ++i)
        for (int64_t j = 0; j < a->kernel_w;) {
          const float *grad = g->data + o * g->channel + centre;
          const float *line = x->data + c * x->channel + i * x->row + j;
          const int taps = a->kernel_w - j >= 7 ? 7 : a->kernel_w - j >= 3 ? 3 : 1;
          switch (taps) {
            case 7: correlate(grad, line, rows, x->row, a->width, 7, to); break;
            case 3: correlate(grad, line, rows, x->row, a->width, 3, to); break;
            default: correlate(grad, line, rows, x->row, a->width, 1, to);
          }
          to += taps, j += taps;
        }
}

static void check_arguments(const fv_arguments *a) {
  assert(a->threads > 0 && a->batch >= 0 && a->height > 0 && a->width > 0);
  assert(a->in_channels > 0 && a->out_channels > 0 && a->weight);
  assert(a->kernel_h % 2 && a->kernel_w % 2);
  assert(!a->batch || (a->x.data && (a->width == 1 || a->x.column == 1)));
  (void)a;
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(narrow_conv_forward)(const fv_arguments *a) {
  check_arguments(a);
  if (!a->batch) return 0;
  assert(a->out);
  const fv_sizes s = sizes_of(a);
  const ptrdiff_t each = a->in_channels * s.floats;
  float *memory = fv_alloc((size_t)(a->threads * each));
  if (!memory) return 1;
#pragma omp parallel for schedule(static) num_threads((int)a->threads) if (a->threads > 1)
  for (int64_t i = 0; i < a->batch * s.strips; ++i) {
    const int64_t b = i / s.strips, first = i % s.strips * STRIP;
    const fv_strip x =
        padded(a, &s, &a->x, a->in_channels, b, first, memory + fv_thread() * each);
    convolve_strip(a, &x, a->weight, a->in_channels, a->out_channels, b, first, a->out);
  }
  fv_free(memory);
  return 0;
}

/* [in][out][kh][kw] turned by half. */
static void turn(const fv_arguments *a, float *to) {
  const int64_t taps = a->kernel_h * a->kernel_w;
  for (int64_t c = 0; c < a->in_channels; ++c)
    for (int64_t o = 0; o < a->out_channels; ++o)
      for (int64_t t = 0; t < taps; ++t)
        *to++ = a->weight[(o * a->in_channels + c) * taps + taps - 1 - t];
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(narrow_conv_backward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes s = sizes_of(a);
  const ptrdiff_t weights = a->in_channels * a->out_channels * a->kernel_h * a->kernel_w;
  if (a->d_weight) memset(a->d_weight, 0, (size_t)weights * sizeof(float));
  if (!a->batch) return 0;
  assert(a->dx && a->grad_out.data);
  const int64_t items = a->batch * s.strips;
  const ptrdiff_t grads = a->out_channels * s.floats, maps = a->in_channels * s.floats;
  float *memory = fv_alloc((size_t)((items + 1) * weights + a->threads * (grads + maps)));
  if (!memory) return 1;
  float *turned = memory, *shares = turned + weights, *strips = shares + items * weights;
  turn(a, turned);
#pragma omp parallel for schedule(static) num_threads((int)a->threads) if (a->threads > 1)
  for (int64_t i = 0; i < items; ++i) {
    const int64_t b = i / s.strips, first = i % s.strips * STRIP;
    float *own = strips + fv_thread() * (grads + maps);
    const fv_strip g = padded(a, &s, &a->grad_out, a->out_channels, b, first, own);
    convolve_strip(a, &g, turned, a->out_channels, a->in_channels, b, first, a->dx);
    if (!a->d_weight) continue;
    const fv_strip x = padded(a, &s, &a->x, a->in_channels, b, first, own + grads);
    const int64_t rows = a->height - first < STRIP ? a->height - first : STRIP;
    weight_gradient(a, &x, &g, rows, shares + i * weights);
  }
  if (a->d_weight)
    for (int64_t i = 0; i < items; ++i)
      for (ptrdiff_t w = 0; w < weights; ++w) a->d_weight[w] += shares[i * weights + w];
  fv_free(memory);
  return 0;
}
