/* Local aggregation, forward: every position sums its neighbours with weights of its own.
 *
 * Neighbours are read where they lie. A vector of weights serves all channels that share it.
 */
#include "weights.h"

/* Logits to probabilities over the taps, lane by lane. */
FV_INLINE void softmax(const fv_sizes *s, const float *from, float *to) {
  for (int g = 0; g < s->period; g += L) {
    fv_f top = fv_load(from + g), total = {0};
    for (int t = 1; t < s->count; ++t) top = fv_max(fv_load(from + t * s->period + g), top);
    for (int t = 0; t < s->count; ++t) {
      const fv_f part = fv_exp(fv_load(from + t * s->period + g) - top);
      fv_store(to + t * s->period + g, part);
      total += part;
    }
    const fv_f factor = 1.0f / total;
    for (int t = 0; t < s->count; ++t)
      fv_store(to + t * s->period + g, fv_load(to + t * s->period + g) * factor);
  }
}

/* The first of each tap's repetitions. */
FV_INLINE void keep(const fv_sizes *s, const float *from, float *to) {
  for (int t = 0; t < s->count; ++t, from += s->period, to += s->groups)
    for (int g = 0; g < s->groups; ++g) to[g] = from[g];
}

/* The weights [tap][period] that a position sums with. */
FV_INLINE const float *weights_at(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                                  int64_t image, int64_t y, int64_t x) {
  const float *given = given_weights(a, s, w, image, y, x);
  if (!a->normalize) return given;
  float *kept = a->probabilities;
  if (kept) kept += place_of(a, image, y, x) * s->count * s->groups;
  float *to = kept && s->period == s->groups ? kept : w->weights;
  softmax(s, given, to);
  if (kept && to != kept) keep(s, to, kept);
  return to;
}

/* `vectors` vectors of channels, `period` apart, that share their weights. */
FV_INLINE void mix_vectors(const fv_arguments *a, int64_t image, const fv_tap *taps, int count,
                           const float *weights, int period, int channel, const int vectors,
                           float *out) {
  fv_f sum[8] = {{0}};
  for (int i = 0; i < count; ++i) {
    const float *from = fv_pixel(&a->values, image, taps[i].row, taps[i].column) + channel;
    const fv_f weight = fv_load(weights + (ptrdiff_t)taps[i].tap * period);
    for (int v = 0; v < vectors; ++v) sum[v] += weight * fv_load(from + v * period);
  }
  for (int v = 0; v < vectors; ++v) fv_store(out + channel + v * period, sum[v]);
}

static void mix(const fv_arguments *a, const fv_sizes *s, int64_t image, const fv_tap *taps,
                int count, const float *weights, float *out) {
  const int period = s->period, whole = s->channels / L * L;
  for (int g = 0; g < period; g += L) {
    int c = g;
#define MIX(n)                                  \
  for (; c + (n - 1) * period < whole; c += n * period) \
  mix_vectors(a, image, taps, count, weights + g, period, c, n, out)
    MIX(8);
    MIX(4);
    MIX(1);
#undef MIX
  }
  for (int c = whole; c < s->channels; ++c) {
    float sum = 0;
    for (int i = 0; i < count; ++i)
      sum += weights[(ptrdiff_t)taps[i].tap * period + c % period] *
             fv_pixel(&a->values, image, taps[i].row, taps[i].column)[c];
    out[c] = sum;
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(aggregate_forward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  if (s->rows == 0) return 0;
  assert(a->out);
  fv_taps taps = {a->height, a->width, a->kernel_h, a->kernel_w, NULL, NULL};
  fv_workspace sketch;
  fv_arena shared = {0}, own = {0};
  fv_take_taps(&taps, &shared);
  plan(&sketch, &own, s);
  float *memory = fv_alloc(shared.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  fv_expect_writes(a->out, sizeof(float) * (size_t)(s->rows * a->width * s->channels));
  shared = (fv_arena){memory, 0};
  fv_take_taps(&taps, &shared);
  fv_fill_taps(&taps, a->dilation_h, a->dilation_w, a->border);

#pragma omp parallel num_threads(s->threads)
  {
    fv_workspace w;
    fv_arena arena = {memory + shared.used + (size_t)fv_thread() * own.used, 0};
    plan(&w, &arena, s);
    const fv_range rows = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t image = row / a->height, y = row % a->height;
      for (int64_t x = 0; x < a->width; ++x) {
        const int count = fv_taps_at(&taps, y, x, 0, a->height, w.taps);
        const float *weights = weights_at(a, s, &w, image, y, x);
        mix(a, s, image, w.taps, count, weights, a->out + place_of(a, image, y, x) * s->channels);
      }
    }
  }
  fv_free(memory);
  return 0;
}
