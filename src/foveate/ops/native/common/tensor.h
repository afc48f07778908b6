/* Tensors (B, H, W, heads, D), their positions, and what of them to prefetch. */
#ifndef FOVEATE_TENSOR_H
#define FOVEATE_TENSOR_H

#include <assert.h>

#include "arguments.h"
#include "storage.h"
#include "workspace.h"

typedef struct {
  char *data;
  ptrdiff_t image, row, column, head, channel; /* strides, in bytes */
  int storage, dim;
} fv_tensor;

FV_INLINE fv_tensor fv_tensor_of(const fv_view *v, int64_t storage, int64_t dim) {
  const ptrdiff_t size = fv_bytes((int)storage);
  return (fv_tensor){v->data,        v->image * size,   v->row * size, v->column * size,
                     v->head * size, v->channel * size, (int)storage,  (int)dim};
}

/* A contiguous tensor of this height, width and count of heads. */
FV_INLINE fv_tensor fv_contiguous(void *data, int64_t height, int64_t width, int64_t heads,
                                  int64_t dim, int64_t storage) {
  const int64_t column = heads * dim, row = width * column;
  const fv_view view = {data, height * row, row, column, dim, 1};
  return fv_tensor_of(&view, storage, dim);
}

/* All of a contiguous tensor is about to be written. */
FV_INLINE void fv_expect_tensor(const fv_tensor *t, int64_t batch) {
  fv_expect_writes(t->data, (size_t)(batch * t->image));
}

FV_INLINE char *fv_at(const fv_tensor *t, int64_t image, int64_t y, int64_t x, int64_t head) {
  return t->data + image * t->image + y * t->row + x * t->column + head * t->head;
}

/* In debug builds: what every kernel takes for granted of a tensor that has positions. */
FV_INLINE void fv_check_view(const fv_view *v, int64_t storage, int64_t dim, bool contiguous_dim) {
  assert(v->data);
  assert(STORAGE_FLOAT32 <= storage && storage <= STORAGE_FLOAT16);
  assert(dim > 0 && (!contiguous_dim || dim == 1 || v->channel == 1));
  (void)v, (void)storage, (void)dim, (void)contiguous_dim;
}

/* The same of the settings. */
FV_INLINE void fv_check_run(const fv_run *run) {
  assert(run->threads > 0);
  assert(0 <= run->seed_low && run->seed_low <= UINT32_MAX);
  assert(0 <= run->seed_high && run->seed_high <= UINT32_MAX);
  assert(0 <= run->threshold && run->threshold <= UINT32_MAX);
  (void)run;
}

/* ---- rows of one position ---------------------------------------------------------------- */

FV_INLINE void fv_read_row_as(const int storage, const char *from, float *to, int dim,
                              float factor) {
  const int size = fv_bytes(storage);
  int d = 0;
  for (; d + L <= dim; d += L) fv_store(to + d, fv_read(from + d * size, storage) * factor);
  for (; d < dim; ++d) to[d] = fv_read_one(from + d * size, storage) * factor;
}

FV_INLINE void fv_write_row_as(const int storage, const float *from, char *to, int dim) {
  const int size = fv_bytes(storage);
  int d = 0;
  for (; d + L <= dim; d += L) fv_write(to + d * size, fv_load(from + d), storage);
  for (; d < dim; ++d) fv_write_one(to + d * size, from[d], storage);
}

/* ---- what comes next --------------------------------------------------------------------- */

/* Positions of a tensor that are about to be read or written. */
typedef struct {
  const char *data;
  ptrdiff_t row, column; /* in bytes */
  int rows, columns, bytes;
} fv_patch;

/* What to prefetch while something else is computed. Hardware does not foresee these accesses: each
 * is one head's few channels, far from the next position's. Asked for all at once they would fill
 * the queue of outstanding misses and stall the core, so the products ask for some at a time: a
 * share with each of their passes, or a position with each of theirs.
 */
typedef struct {
  fv_patch patch[4];
  int patches;
} fv_ahead;

FV_INLINE void fv_add_ahead(fv_ahead *ahead, fv_patch patch) {
  ahead->patch[ahead->patches++] = patch;
}

/* The share of one of so many passes: every passes-th column. */
FV_INLINE void fv_prefetch_share(const fv_ahead *ahead, int pass, int passes) {
  for (const fv_patch *p = ahead->patch; p < ahead->patch + ahead->patches; ++p) {
    const char *column = p->data + pass * p->column;
    for (int x = pass; x < p->columns; x += passes, column += passes * p->column) {
      const char *at = column;
      for (int y = 0; y < p->rows; ++y, at += p->row) {
        fv_prefetch((const float *)at); /* mostly two lines: a loop over them is foreseen badly */
        if (p->bytes > 64) fv_prefetch((const float *)(at + 64));
        for (int i = 128; i < p->bytes; i += 64) fv_prefetch((const float *)(at + i));
      }
    }
  }
}

/* Where the `bytes` bytes number `block` of a position in a patch's first row begin. */
FV_INLINE const float *fv_ahead_at(const fv_patch *p, int64_t x, int block) {
  return (const float *)(p->data + x * p->column + block * p->bytes);
}

#endif
