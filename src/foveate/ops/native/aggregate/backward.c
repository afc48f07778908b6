/* Local aggregation, backward.
 *
 * The gradient of a position's weights is made of what it read. The gradient of values is added
 * where they were read; a thread has rows of values of its own and goes over all positions whose
 * taps reach them, so that nothing is added from two threads, and every number is computed the
 * same way whatever the count of threads.
 */
#include "weights.h"

/* grads[tap][period] += what `vectors` vectors of channels that share their weights give. */
FV_INLINE void weight_grads_of(const fv_arguments *a, int64_t image, const fv_tap *taps, int count,
                               int period, int channel, const int vectors, const float *grad_out,
                               float *grads) {
  fv_f grad[8];
  for (int v = 0; v < vectors; ++v) grad[v] = fv_load(grad_out + channel + v * period);
  for (int i = 0; i < count; ++i) {
    const float *from = fv_pixel(&a->values, image, taps[i].row, taps[i].column) + channel;
    float *to = grads + (ptrdiff_t)taps[i].tap * period;
    fv_f sum = fv_load(to);
    for (int v = 0; v < vectors; ++v) sum += grad[v] * fv_load(from + v * period);
    fv_store(to, sum);
  }
}

/* Gradients [tap][period] of the weights that a position sums with. */
static void weight_grads(const fv_arguments *a, const fv_sizes *s, int64_t image,
                         const fv_tap *taps, int count, const float *grad_out, float *grads) {
  const int period = s->period, whole = s->channels / L * L;
  memset(grads, 0, sizeof(float) * (size_t)s->count * (size_t)period);
  for (int g = 0; g < period; g += L) {
    int c = g;
#define ADD(n)                                          \
  for (; c + (n - 1) * period < whole; c += n * period) \
  weight_grads_of(a, image, taps, count, period, c, n, grad_out, grads + g)
    ADD(8);
    ADD(4);
    ADD(1);
#undef ADD
  }
  for (int c = whole; c < s->channels; ++c)
    for (int i = 0; i < count; ++i)
      grads[(ptrdiff_t)taps[i].tap * period + c % period] +=
          grad_out[c] * fv_pixel(&a->values, image, taps[i].row, taps[i].column)[c];
}

/* [tap][period] to [tap][groups], in place: the sum of a tap's repetitions. */
FV_INLINE void sum_repetitions(const fv_sizes *s, float *grads) {
  for (int t = 0; t < s->count; ++t) {
    float *to = grads + (ptrdiff_t)t * s->groups;
    const float *from = grads + (ptrdiff_t)t * s->period;
    for (int g = 0; g < s->groups; ++g) {
      float sum = from[g];
      for (int i = g + s->groups; i < s->period; i += s->groups) sum += from[i];
      to[g] = sum;
    }
  }
}

/* Gradients [tap][groups] of probabilities to those of logits, in place. */
FV_INLINE void of_logits(const fv_sizes *s, const float *kept, float *grads, float *dot) {
  const int groups = s->groups;
  memset(dot, 0, sizeof(float) * (size_t)groups);
  for (int i = 0, t = 0; t < s->count; ++t)
    for (int g = 0; g < groups; ++g, ++i) dot[g] += kept[i] * grads[i];
  for (int i = 0, t = 0; t < s->count; ++t)
    for (int g = 0; g < groups; ++g, ++i) grads[i] = kept[i] * (grads[i] - dot[g]);
}

static void weights_of_row(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                           const fv_taps *taps, int64_t image, int64_t y) {
  const int numbers = s->count * s->groups;
  const int storage = (int)a->storage;
  for (int64_t x = 0; x < a->width; ++x) {
    const int64_t place = place_of(a, image, y, x);
    const int count = fv_taps_at(taps, y, x, 0, a->height, w->taps);
    weight_grads(a, s, image, w->taps, count, fv_pixel(&a->grad_out, image, y, x), w->grads);
    if (s->period != s->groups) sum_repetitions(s, w->grads);
    if (a->normalize) of_logits(s, a->probabilities + place * numbers, w->grads, w->dot);
    fv_write_numbers(storage, w->grads,
                     (char *)a->d_weights + place * numbers * fv_bytes(storage), numbers);
  }
}

/* A position's share of the gradients of values in the rows that a thread has. */
static void spread(const fv_arguments *a, const fv_sizes *s, int64_t image, const fv_tap *taps,
                   int count, const float *weights, const float *grad_out) {
  const int period = s->period, whole = s->channels / L * L;
  for (int i = 0; i < count; ++i) {
    const float *weight = weights + (ptrdiff_t)taps[i].tap * period;
    float *to = a->d_values + place_of(a, image, taps[i].row, taps[i].column) * s->channels;
    for (int g = 0; g < period; g += L) {
      const fv_f factor = fv_load(weight + g);
      for (int c = g; c < whole; c += period)
        fv_store(to + c, fv_load(to + c) + factor * fv_load(grad_out + c));
    }
    for (int c = whole; c < s->channels; ++c) to[c] += weight[c % period] * grad_out[c];
  }
}

static void values_of_rows(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                           const fv_taps *taps, const fv_rows *rows) {
  float *begin = a->d_values + place_of(a, rows->image, rows->first, 0) * s->channels;
  memset(begin, 0,
         sizeof(float) * (size_t)((rows->last - rows->first) * a->width * s->channels));
  for (int64_t y = 0; y < a->height; ++y) {
    if (!fv_row_reaches(taps, y, rows->first, rows->last)) continue;
    for (int64_t x = 0; x < a->width; ++x) {
      const int count = fv_taps_at(taps, y, x, rows->first, rows->last, w->taps);
      const float *weights = a->normalize
                                 ? kept_weights(a, s, w, place_of(a, rows->image, y, x))
                                 : given_weights(a, s, w, rows->image, y, x);
      spread(a, s, rows->image, w->taps, count, weights,
             fv_pixel(&a->grad_out, rows->image, y, x));
    }
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(aggregate_backward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  if (s->rows == 0) return 0;
  assert(a->d_values && a->d_weights && (!a->normalize || a->probabilities));
  fv_check_view(&a->grad_out, STORAGE_FLOAT32, s->channels, true);
  fv_taps taps = {a->height, a->width, a->kernel_h, a->kernel_w, NULL, NULL};
  fv_workspace sketch;
  fv_arena shared = {0}, own = {0};
  fv_take_taps(&taps, &shared);
  plan(&sketch, &own, s);
  float *memory = fv_alloc(shared.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  shared = (fv_arena){memory, 0};
  fv_take_taps(&taps, &shared);
  fv_fill_taps(&taps, a->dilation_h, a->dilation_w, a->border);

#pragma omp parallel num_threads(s->threads)
  {
    fv_workspace w;
    fv_arena arena = {memory + shared.used + (size_t)fv_thread() * own.used, 0};
    plan(&w, &arena, s);
    const fv_range share = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = share.begin; row < share.end; ++row)
      weights_of_row(a, s, &w, &taps, row / a->height, row % a->height);
    for (int64_t row = share.begin; row < share.end;) {
      const fv_rows rows = fv_rows_at(a->height, row, share.end);
      values_of_rows(a, s, &w, &taps, &rows);
      row += rows.last - rows.first;
    }
  }
  fv_free(memory);
  return 0;
}
