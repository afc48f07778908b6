/* Rows of a contiguous map, some of which have fewer numbers than a vector has lanes, and how maps
 * are divided.
 *
 * A row is read and written in whole vectors. Those that reach beyond its end reach into the rows
 * that follow and are written after it. Where a work item ends, beyond which somebody else's memory
 * may lie, so that not a whole vector is `left`, it is a part of one.
 */
#ifndef FOVEATE_GATES_ROWS_H
#define FOVEATE_GATES_ROWS_H

#include <assert.h>
#include <stdbool.h>

#include "../common/simd.h"
#include "../common/workspace.h"
#include "arguments.h"

enum { ITEMS = 8, LEAST_SLICES = 8 };

/* Into how many work items an image is cut, whatever the count of threads: its outer slices, at
 * least LEAST_SLICES of them in each. */
FV_INLINE int64_t items_of(int64_t outer) {
  const int64_t most = outer / LEAST_SLICES;
  return most < 1 ? 1 : most > ITEMS ? ITEMS : most;
}

/* The first `count` numbers at p, zeros after them, and the reverse. */
FV_INLINE fv_f load_part(const float *p, int64_t count) {
  fv_f x = {0};
  for (int i = 0; i < L; ++i)
    if (i < count) x[i] = p[i];
  return x;
}

FV_INLINE void store_part(float *p, fv_f x, int64_t count) {
  for (int i = 0; i < L; ++i)
    if (i < count) p[i] = x[i];
}

/* L numbers of a row of `count` from n on; `left` are in memory from the row's start. */
FV_INLINE fv_f load_at(const float *row, int64_t n, int64_t count, int64_t left) {
  return n + L <= left ? fv_load(row + n) : load_part(row + n, count - n);
}

FV_INLINE void store_at(float *row, int64_t n, int64_t count, int64_t left, fv_f x) {
  if (n + L <= left)
    fv_store(row + n, x);
  else
    store_part(row + n, x, count - n);
}

FV_INLINE fv_f lane_numbers(void) {
  fv_f lanes;
  for (int i = 0; i < L; ++i) lanes[i] = (float)i;
  return lanes;
}

/* The first `count` lanes of x, zeros after them. */
FV_INLINE fv_f first_lanes(fv_f x, int64_t count) {
  return count >= L ? x : fv_select(lane_numbers() < fv_set((float)count), x, (fv_f){0});
}

/* Lane i of the result is lane i + step of x. */
#if FV_LANES == 8
#define LANES_FROM(x, step)                                                                    \
  __builtin_shufflevector(x, x, (0 + (step)) % 8, (1 + (step)) % 8, (2 + (step)) % 8,          \
                          (3 + (step)) % 8, (4 + (step)) % 8, (5 + (step)) % 8,                \
                          (6 + (step)) % 8, (7 + (step)) % 8)
#else
#define LANES_FROM(x, step)                                                           \
  __builtin_shufflevector(x, x, (0 + (step)) % 4, (1 + (step)) % 4, (2 + (step)) % 4, \
                          (3 + (step)) % 4)
#endif

FV_INLINE float sum_of(fv_f x) {
#if FV_LANES == 8
  x += LANES_FROM(x, 4);
#endif
  x += LANES_FROM(x, 2);
  x += LANES_FROM(x, 1);
  return x[0];
}

/* Where a view has the number at these places. */
FV_INLINE float *place(const fv_view *v, int64_t image, int64_t row, int64_t column) {
  return (float *)v->data + image * v->image + row * v->row + column * v->column;
}

#endif
