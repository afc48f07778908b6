/* What both kernels of local relations share: sizes, and what one thread works in. */
#ifndef FOVEATE_RELATION_MAP_H
#define FOVEATE_RELATION_MAP_H

#include "../common/taps.h"
#include "arguments.h"

typedef fv_relation_arguments fv_arguments;

typedef struct {
  int dim, count, size; /* count: of taps; size: numbers that a position has in the output */
  int storage, bytes, threads;
  int64_t rows; /* of all images */
} fv_sizes;

typedef struct {
  float *related, *grads, *moved, *zeros; /* [size], [size], [tap][dim], [dim] */
  float *d_scale, *d_shift;               /* [size]: this thread's share */
  fv_tap *taps;
  const char **from; /* where each tap's key lies */
} fv_workspace;

/* What all threads read: taps, and scale and shift of every number of a position. */
typedef struct {
  fv_taps taps;
  float *scale, *shift;
} fv_shared;

FV_INLINE fv_sizes sizes_of(const fv_arguments *a) {
  fv_sizes s = {.dim = (int)a->dim, .count = (int)(a->kernel_h * a->kernel_w)};
  s.size = s.dim * (s.count + (a->relation == RELATION_CONCATENATION));
  s.storage = (int)a->storage, s.bytes = fv_bytes(s.storage);
  s.rows = a->batch * a->height;
  s.threads = (int)(s.rows < a->run.threads ? s.rows : a->run.threads);
  return s;
}

FV_INLINE void plan(fv_workspace *w, fv_arena *arena, const fv_sizes *s) {
  w->related = fv_take(arena, s->size);
  w->grads = fv_take(arena, s->size);
  w->d_scale = fv_take(arena, s->size);
  w->d_shift = fv_take(arena, s->size);
  w->moved = fv_take(arena, (ptrdiff_t)s->count * s->dim);
  w->zeros = fv_take(arena, s->dim);
  w->taps = fv_take_bytes(arena, s->count * (ptrdiff_t)sizeof(fv_tap));
  w->from = fv_take_bytes(arena, s->count * (ptrdiff_t)sizeof(char *));
}

FV_INLINE void plan_shared(fv_shared *to, fv_arena *arena, const fv_arguments *a,
                           const fv_sizes *s) {
  to->taps = (fv_taps){a->height, a->width, a->kernel_h, a->kernel_w, NULL, NULL};
  fv_take_taps(&to->taps, arena);
  to->scale = fv_take(arena, s->size);
  to->shift = fv_take(arena, s->size);
}

/* How many numbers of scale and shift there are. */
FV_INLINE int affine_size(const fv_arguments *a, const fv_sizes *s) {
  return a->relation == RELATION_DIFFERENCE ? s->dim : s->size;
}

FV_INLINE void fill_shared(const fv_shared *to, const fv_arguments *a, const fv_sizes *s) {
  fv_fill_taps(&to->taps, a->dilation_h, a->dilation_w, a->border);
  if (!a->scale) return;
  const int count = affine_size(a, s);
  for (int i = 0; i < s->size; ++i) {
    to->scale[i] = a->scale[i % count];
    to->shift[i] = a->shift[i % count];
  }
}

/* In debug builds: what both kernels take for granted. */
FV_INLINE void check_arguments(const fv_arguments *a) {
  fv_check_run(&a->run);
  assert(a->batch >= 0 && a->height > 0 && a->width > 0 && a->dim > 0);
  assert(a->kernel_h > 0 && a->kernel_w > 0 && a->dilation_h > 0 && a->dilation_w > 0);
  assert(a->border == TAP_ZERO || a->border == TAP_REFLECT);
  assert(a->relation == RELATION_DIFFERENCE || a->relation == RELATION_CONCATENATION);
  assert(!a->scale == !a->shift && !a->d_scale == !a->d_shift);
  if (!a->batch) return;
  fv_check_view(&a->q, STORAGE_FLOAT32, a->dim, true);
  fv_check_view(&a->k, STORAGE_FLOAT32, a->dim, true);
}

/* The index of a position in a contiguous (B, H, W). */
FV_INLINE int64_t place_of(const fv_arguments *a, int64_t image, int64_t y, int64_t x) {
  return (image * a->height + y) * a->width + x;
}

/* (taps, dim): q - k. */
FV_INLINE void differences(const fv_sizes *s, const float *q, const char *const *from, float *to) {
  for (int t = 0; t < s->count; ++t, to += s->dim) {
    const float *k = (const float *)from[t];
    int d = 0;
    for (; d + L <= s->dim; d += L) fv_store(to + d, fv_load(q + d) - fv_load(k + d));
    for (; d < s->dim; ++d) to[d] = q[d] - k[d];
  }
}

/* (dim, taps): keys, channel by channel. */
FV_INLINE void gather(const fv_sizes *s, const char *const *from, float *to) {
  int t = 0;
  for (; t + L <= s->count; t += L)
    fv_gather(STORAGE_FLOAT32, from + t, to + t, s->count, s->dim, 1.0f);
  for (; t < s->count; ++t)
    for (int d = 0; d < s->dim; ++d) to[d * s->count + t] = ((const float *)from[t])[d];
}

/* The relation of a position, before scale and shift. */
static void relate(const fv_arguments *a, const fv_sizes *s, const fv_workspace *w,
                   const fv_taps *taps, int64_t image, int64_t y, int64_t x, float *to) {
  const float *q = fv_pixel(&a->q, image, y, x);
  const int count = fv_taps_at(taps, y, x, 0, a->height, w->taps);
  if (count < s->count)
    for (int t = 0; t < s->count; ++t) w->from[t] = (const char *)w->zeros;
  for (int i = 0; i < count; ++i)
    w->from[w->taps[i].tap] =
        (const char *)fv_pixel(&a->k, image, w->taps[i].row, w->taps[i].column);
  if (a->relation == RELATION_DIFFERENCE) {
    differences(s, q, w->from, to);
  } else {
    memcpy(to, q, sizeof(float) * (size_t)s->dim);
    gather(s, w->from, to + s->dim);
  }
}

/* to[i] += factor * from[i] */
FV_INLINE void add(float *to, const float *from, float factor, int count) {
  int i = 0;
  for (; i + L <= count; i += L) fv_store(to + i, fv_load(to + i) + factor * fv_load(from + i));
  for (; i < count; ++i) to[i] += factor * from[i];
}

#endif
