/* What a thread of window attention works in, and how windows are shared among the threads. */
#ifndef FOVEATE_WINDOW_WORKSPACE_H
#define FOVEATE_WINDOW_WORKSPACE_H

#include "map.h"

typedef struct {
  struct {
    fv_tensor q, k, v, out, grad_out, dq, dk, dv;
  } tensors;
  fv_cells cells;
  const float **keys, **values; /* the row of each cell */
  float *key_rows, *value_rows; /* rows that had to be converted */
  float *q, *grad;              /* a block of queries and of output gradients, [channel][lane] */
  float *lanes;                 /* the same before or after transposing, [lane][channel] */
  float *logits, *dlogits;      /* [key][lane of a block], or of all blocks in backward */
  float *q_rows, *grad_rows;    /* [query][channel], padded to whole vectors */
  float *d_bias;                /* this thread's sum, if there is one */
} fv_workspace;

static void plan(fv_workspace *w, fv_arena *arena, const fv_arguments *a, bool backward) {
  const ptrdiff_t cells = cells_of(a), columns = backward ? fv_round_up(cells, BLOCK) : BLOCK;
  const ptrdiff_t most = a->dim > a->value_dim ? a->dim : a->value_dim;
  const ptrdiff_t wide = fv_round_up(most, L), rows = backward ? cells * wide : 0;
  const ptrdiff_t converted = a->storage == STORAGE_FLOAT32 ? 0 : cells * most;
  const ptrdiff_t integers = cells * (ptrdiff_t)sizeof(int);
  w->cells.row = fv_take_bytes(arena, integers);
  w->cells.column = fv_take_bytes(arena, integers);
  w->cells.place = fv_take_bytes(arena, integers);
  w->cells.region = fv_take_bytes(arena, integers);
  w->keys = fv_take_bytes(arena, cells * (ptrdiff_t)sizeof(float *));
  w->values = fv_take_bytes(arena, cells * (ptrdiff_t)sizeof(float *));
  w->q = fv_take(arena, BLOCK * most);
  w->grad = fv_take(arena, BLOCK * most);
  w->lanes = fv_take(arena, BLOCK * wide);
  w->logits = fv_take(arena, cells * columns);
  w->dlogits = fv_take(arena, backward ? cells * columns : 0);
  w->q_rows = fv_take(arena, rows);
  w->grad_rows = fv_take(arena, rows);
  w->key_rows = fv_take(arena, converted);
  w->value_rows = fv_take(arena, converted);
}

static void find_tensors(fv_workspace *w, const fv_arguments *a) {
  w->tensors.q = fv_tensor_of(&a->q, a->storage, a->dim);
  w->tensors.k = fv_tensor_of(&a->k, a->storage, a->dim);
  w->tensors.v = fv_tensor_of(&a->v, a->storage, a->value_dim);
  w->tensors.grad_out = fv_tensor_of(&a->grad_out, a->storage, a->value_dim);
  w->tensors.out = contiguous(a, a->out, a->value_dim);
  w->tensors.dq = contiguous(a, a->dq, a->dim);
  w->tensors.dk = contiguous(a, a->dk, a->dim);
  w->tensors.dv = contiguous(a, a->dv, a->value_dim);
}

/* Do `item`, the work of one window of one image and head, for all of them, shared among the
 * threads; a thread's own sum of bias gradients is at d_bias, bias_floats after the one before.
 * Returns 0, or 1 when there is no memory.
 */
FV_INLINE int each_window(const fv_arguments *a, bool backward, float *d_bias,
                          ptrdiff_t bias_floats,
                          void (*item)(const fv_arguments *, fv_workspace *, int64_t, int64_t)) {
  const int64_t windows = a->windows_h * a->windows_w, total = a->batch * windows * a->heads;
  int failed = 0;
#pragma omp parallel num_threads((int)a->run.threads) reduction(| : failed)
  {
    fv_workspace w = {0};
    fv_arena arena = {0};
    plan(&w, &arena, a, backward);
    float *memory = fv_alloc(arena.used);
    if (memory) {
      const fv_range mine = fv_split(total, fv_threads(), fv_thread());
      int64_t known = -1;
      arena = (fv_arena){memory, 0};
      plan(&w, &arena, a, backward);
      find_tensors(&w, a);
      if (d_bias) w.d_bias = d_bias + fv_thread() * bias_floats;
      for (int64_t number = mine.begin; number < mine.end; ++number) {
        const int64_t h = number % a->heads, window = number / a->heads % windows;
        if (window != known) find_cells(a, known = window, &w.cells);
        if (w.cells.count) item(a, &w, number / a->heads / windows, h);
      }
      fv_free(memory);
    } else {
      failed = 1;
    }
  }
  return failed;
}

#endif
