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
  float *numbers, *moved, *zeros; /* [size], [tap][dim], [dim] */
  fv_tap *taps;
  const char **from; /* where each tap's key lies */
} fv_workspace;

FV_INLINE fv_sizes sizes_of(const fv_arguments *a) {
  fv_sizes s = {.dim = (int)a->dim, .count = (int)(a->kernel_h * a->kernel_w)};
  s.size = s.dim * (s.count + (a->relation == RELATION_CONCATENATION));
  s.storage = (int)a->storage, s.bytes = fv_bytes(s.storage);
  s.rows = a->batch * a->height;
  s.threads = (int)(s.rows < a->run.threads ? s.rows : a->run.threads);
  return s;
}

FV_INLINE void plan(fv_workspace *w, fv_arena *arena, const fv_sizes *s) {
  w->numbers = fv_take(arena, s->size);
  w->moved = fv_take(arena, (ptrdiff_t)s->count * s->dim);
  w->zeros = fv_take(arena, s->dim);
  w->taps = fv_take_bytes(arena, s->count * (ptrdiff_t)sizeof(fv_tap));
  w->from = fv_take_bytes(arena, s->count * (ptrdiff_t)sizeof(char *));
}

/* In debug builds: what both kernels take for granted. */
FV_INLINE void check_arguments(const fv_arguments *a) {
  fv_check_run(&a->run);
  assert(a->batch >= 0 && a->height > 0 && a->width > 0 && a->dim > 0);
  assert(a->kernel_h > 0 && a->kernel_w > 0 && a->dilation_h > 0 && a->dilation_w > 0);
  assert(a->border == TAP_ZERO || a->border == TAP_REFLECT);
  assert(a->relation == RELATION_DIFFERENCE || a->relation == RELATION_CONCATENATION);
}

/* The index of a position in a contiguous (B, H, W). */
FV_INLINE int64_t place_of(const fv_arguments *a, int64_t image, int64_t y, int64_t x) {
  return (image * a->height + y) * a->width + x;
}

/* to[i] += factor * from[i] */
FV_INLINE void add(float *to, const float *from, float factor, int count) {
  int i = 0;
  for (; i + L <= count; i += L) fv_store(to + i, fv_load(to + i) + factor * fv_load(from + i));
  for (; i < count; ++i) to[i] += factor * from[i];
}

#endif
