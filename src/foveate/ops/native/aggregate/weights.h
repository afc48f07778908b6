/* What both kernels of local aggregation share: the weights of one position, and its taps.
 *
 * Channels are vector lanes. Channel c has the weight of group c % groups, so a tap's weights are
 * kept `period` numbers long, the least multiple of the groups that vectors divide: lanes of any
 * vector of channels find theirs side by side.
 */
#ifndef FOVEATE_AGGREGATE_WEIGHTS_H
#define FOVEATE_AGGREGATE_WEIGHTS_H

#include "../common/taps.h"
#include "arguments.h"

typedef fv_aggregate_arguments fv_arguments;

typedef struct {
  int channels, groups, period, count; /* count: of taps */
  int threads;
  int64_t rows; /* of all images */
} fv_sizes;

/* What one thread works in; the taps are shared. */
typedef struct {
  float *weights, *grads, *dot; /* [tap][period], [tap][period], [period] */
  float *row, *turned;          /* [tap][groups], [group][taps] */
  fv_tap *taps;
} fv_workspace;

FV_INLINE fv_sizes sizes_of(const fv_arguments *a) {
  fv_sizes s = {.groups = (int)a->groups, .channels = (int)(a->share * a->groups)};
  s.period = s.groups;
  while (s.period % L) s.period += s.groups;
  s.count = (int)(a->kernel_h * a->kernel_w);
  s.rows = a->batch * a->height;
  s.threads = (int)(s.rows < a->run.threads ? s.rows : a->run.threads);
  return s;
}

FV_INLINE void plan(fv_workspace *w, fv_arena *arena, const fv_sizes *s) {
  w->weights = fv_take(arena, (ptrdiff_t)s->count * s->period);
  w->grads = fv_take(arena, (ptrdiff_t)s->count * s->period);
  w->dot = fv_take(arena, s->period);
  w->row = fv_take(arena, (ptrdiff_t)s->count * s->groups);
  w->turned = fv_take(arena, (ptrdiff_t)s->count * s->groups);
  w->taps = fv_take_bytes(arena, s->count * (ptrdiff_t)sizeof(fv_tap));
}

/* In debug builds: what both kernels take for granted. */
FV_INLINE void check_arguments(const fv_arguments *a) {
  fv_check_run(&a->run);
  assert(a->batch >= 0 && a->height > 0 && a->width > 0 && a->share > 0 && a->groups > 0);
  assert(a->kernel_h > 0 && a->kernel_w > 0 && a->dilation_h > 0 && a->dilation_w > 0);
  assert(a->border == TAP_ZERO || a->border == TAP_REFLECT);
  if (!a->batch) return;
  fv_check_view(&a->values, STORAGE_FLOAT32, a->share * a->groups, true);
  fv_check_view(&a->weights, a->storage, a->groups, false);
}

/* The index of a position in a contiguous (B, H, W). */
FV_INLINE int64_t place_of(const fv_arguments *a, int64_t image, int64_t y, int64_t x) {
  return (image * a->height + y) * a->width + x;
}

/* Weights of a position, as they are stored, to [tap][groups]. */
static void read_weights(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                         int64_t image, int64_t y, int64_t x, float *to) {
  const fv_view *v = &a->weights;
  const int storage = (int)a->storage, size = fv_bytes(storage);
  const char *from =
      (const char *)v->data + (image * v->image + y * v->row + x * v->column) * size;
  if (v->channel == 1 && v->head == s->groups) {
    fv_read_numbers(storage, from, to, s->count * s->groups);
    return;
  }
  if (v->head == 1 && v->channel == s->count) {
    const float *by_group = (const float *)from;
    if (storage != STORAGE_FLOAT32) {
      fv_read_numbers(storage, from, w->turned, s->count * s->groups);
      by_group = w->turned;
    }
    fv_transpose(by_group, s->count, to, s->groups, s->groups, s->count, 1.0f);
    return;
  }
  for (int t = 0; t < s->count; ++t, to += s->groups)
    if (v->channel == 1)
      fv_read_numbers(storage, from + t * v->head * size, to, s->groups);
    else
      for (int g = 0; g < s->groups; ++g)
        to[g] = fv_read_one(from + (t * v->head + g * v->channel) * size, storage);
}

/* [tap][groups] to [tap][period]: each tap's weights over and over. */
FV_INLINE void repeat_weights(const fv_sizes *s, const float *from, float *to) {
  for (int t = 0; t < s->count; ++t, from += s->groups)
    for (int begin = 0; begin < s->period; begin += s->groups, to += s->groups)
      for (int g = 0; g < s->groups; ++g) to[g] = from[g];
}

/* Whether a position's weights can be used where they lie. */
FV_INLINE bool in_place(const fv_arguments *a, const fv_sizes *s) {
  return s->period == s->groups && a->storage == STORAGE_FLOAT32 && a->weights.channel == 1 &&
         a->weights.head == s->groups;
}

/* The weights [tap][period] of a position as they are given. */
FV_INLINE const float *given_weights(const fv_arguments *a, const fv_sizes *s,
                                     const fv_workspace *w, int64_t image, int64_t y, int64_t x) {
  const fv_view *v = &a->weights;
  if (in_place(a, s))
    return (const float *)v->data + image * v->image + y * v->row + x * v->column;
  if (s->period == s->groups) {
    read_weights(a, s, w, image, y, x, w->weights);
  } else {
    read_weights(a, s, w, image, y, x, w->row);
    repeat_weights(s, w->row, w->weights);
  }
  return w->weights;
}

/* The same of kept probabilities. */
FV_INLINE const float *kept_weights(const fv_arguments *a, const fv_sizes *s,
                                    const fv_workspace *w, int64_t place) {
  const float *kept = a->probabilities + place * s->count * s->groups;
  if (s->period == s->groups) return kept;
  repeat_weights(s, kept, w->weights);
  return w->weights;
}

#endif
