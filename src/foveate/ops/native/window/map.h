/* How window attention divides a map: the cells of a window, and their rows in tensors. */
#ifndef FOVEATE_WINDOW_MAP_H
#define FOVEATE_WINDOW_MAP_H

#include "../common/dropout.h"
#include "../common/tensor.h"
#include "arguments.h"

#define BLOCK (2 * L) /* queries that are attended together */

typedef fv_window_arguments fv_arguments;

/* The real cells of one window: where they lie, which places of the window they hold. */
typedef struct {
  int count;
  bool mixed; /* whether the shift brought cells together from two ends of the map */
  int *row, *column, *place, *region;
} fv_cells;

/* Cells that a window has, some of which may lie beyond the map. */
FV_INLINE ptrdiff_t cells_of(const fv_arguments *a) { return a->window_h * a->window_w; }

/* A contiguous tensor of the map's size. */
FV_INLINE fv_tensor contiguous(const fv_arguments *a, void *data, int64_t dim) {
  return fv_contiguous(data, a->height, a->width, a->heads, dim, a->storage);
}

/* In debug builds: what both kernels take for granted. */
FV_INLINE void check_arguments(const fv_arguments *a) {
  fv_check_run(&a->run);
  assert(a->batch >= 0 && a->height > 0 && a->width > 0 && a->heads > 0);
  assert(a->window_h > 0 && a->window_w > 0);
  assert(a->windows_h * a->window_h >= a->height && a->windows_w * a->window_w >= a->width);
  assert(0 <= a->shift_h && a->shift_h < a->windows_h * a->window_h);
  assert(0 <= a->shift_w && a->shift_w < a->windows_w * a->window_w);
  if (!a->batch) return;
  fv_check_view(&a->q, a->storage, a->dim, true);
  fv_check_view(&a->k, a->storage, a->dim, true);
  fv_check_view(&a->v, a->storage, a->value_dim, true);
  /* Keys and values of float32 are read in place. */
  assert(a->storage != STORAGE_FLOAT32 || (uintptr_t)a->k.data % sizeof(float) == 0);
  assert(a->storage != STORAGE_FLOAT32 || (uintptr_t)a->v.data % sizeof(float) == 0);
}

/* ---- cells ------------------------------------------------------------------------------- */

/* Where the index-th cell of a window lies along an axis; *wrapped: it came round the end. */
FV_INLINE int64_t along(int64_t window, int64_t index, int64_t cells, int64_t windows,
                        int64_t shift, int64_t spread, int *wrapped) {
  const int64_t at = (spread ? window + index * windows : window * cells + index) + shift;
  *wrapped = at >= cells * windows;
  return *wrapped ? at - cells * windows : at;
}

static void find_cells(const fv_arguments *a, int64_t window, fv_cells *c) {
  const int64_t down = window / a->windows_w, across = window % a->windows_w;
  c->count = 0;
  c->mixed = false;
  for (int64_t i = 0; i < a->window_h; ++i) {
    int below, beside;
    const int64_t y = along(down, i, a->window_h, a->windows_h, a->shift_h, a->spread, &below);
    if (y >= a->height) continue;
    for (int64_t j = 0; j < a->window_w; ++j) {
      const int64_t x = along(across, j, a->window_w, a->windows_w, a->shift_w, a->spread, &beside);
      if (x >= a->width) continue;
      c->row[c->count] = (int)y;
      c->column[c->count] = (int)x;
      c->place[c->count] = (int)(i * a->window_w + j);
      c->region[c->count] = 2 * below + beside;
      c->mixed |= c->region[c->count] != c->region[0];
      ++c->count;
    }
  }
}

/* Lanes beyond the last cell repeat it. */
FV_INLINE int lane_cell(const fv_cells *c, int first, int lane) {
  return first + lane < c->count ? first + lane : c->count - 1;
}

FV_INLINE char *row_of(const fv_tensor *t, const fv_cells *c, int64_t b, int64_t h, int cell) {
  return fv_at(t, b, c->row[cell], c->column[cell], h);
}

/* ---- rows of cells ----------------------------------------------------------------------- */

static void read_row(const fv_tensor *t, const char *from, float *to, float factor) {
  FV_BY_STORAGE(t->storage, fv_read_row_as(S, from, to, t->dim, factor));
}

static void write_row(const fv_tensor *t, const float *from, char *to) {
  FV_BY_STORAGE(t->storage, fv_write_row_as(S, from, to, t->dim));
}

/* Rows of the cells from `first` on to [channel][lane of a block], times factor. */
static void gather(const fv_tensor *t, const fv_cells *c, int64_t b, int64_t h, int first,
                   int lanes, float factor, float *to) {
  for (int i = 0; i < lanes; i += L) {
    const char *from[L];
    for (int l = 0; l < L; ++l) from[l] = row_of(t, c, b, h, lane_cell(c, first, i + l));
    fv_gather(t->storage, from, to + i, BLOCK, t->dim, factor);
  }
}

/* The reverse of gather. */
static void scatter(const fv_tensor *t, const fv_cells *c, int64_t b, int64_t h, int first,
                    int lanes, const float *from, float *between) {
  fv_transpose(from, BLOCK, between, t->dim, t->dim, lanes > L ? BLOCK : L, 1.f);
  for (int i = 0; i < lanes; ++i)
    write_row(t, between + (ptrdiff_t)i * t->dim, row_of(t, c, b, h, first + i));
}

#endif
