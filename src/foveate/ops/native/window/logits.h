/* Logits and weights of a block of queries of one window. */
#ifndef FOVEATE_WINDOW_LOGITS_H
#define FOVEATE_WINDOW_LOGITS_H

#include "products.h"
#include "workspace.h"

/* Keys and values as rows of float32: where they lie, or converted. */
static void point_at_rows(const fv_arguments *a, fv_workspace *w, int64_t b, int64_t h) {
  const fv_tensor *k = &w->tensors.k, *v = &w->tensors.v;
  for (int t = 0; t < w->cells.count; ++t) {
    const char *key = row_of(k, &w->cells, b, h, t), *value = row_of(v, &w->cells, b, h, t);
    if (a->storage == STORAGE_FLOAT32) {
      w->keys[t] = (const float *)(const void *)key;
      w->values[t] = (const float *)(const void *)value;
    } else {
      float *key_row = w->key_rows + (ptrdiff_t)t * k->dim;
      float *value_row = w->value_rows + (ptrdiff_t)t * v->dim;
      read_row(k, key, key_row, 1.f);
      read_row(v, value, value_row, 1.f);
      w->keys[t] = key_row;
      w->values[t] = value_row;
    }
  }
}

static void add_bias(const fv_arguments *a, const fv_cells *c, int64_t h, int first, int lanes,
                     float *logits, ptrdiff_t row) {
  const ptrdiff_t cells = cells_of(a);
  const float *bias = a->bias + h * cells * cells;
  const float *end = a->bias + a->heads * cells * cells;
  for (int t = 0; t < c->count; ++t) {
    const float *from = bias + c->place[t] * cells;
    for (int i = 0; i < lanes; i += L) {
      fv_f add;
      if (c->count == cells && end - (from + first + i) >= L)
        add = fv_load(from + first + i);
      else
        for (int l = 0; l < L; ++l) add[l] = from[c->place[lane_cell(c, first, i + l)]];
      float *at = logits + t * row + i;
      fv_store(at, fv_load(at) + add * FV_LOG2E);
    }
  }
}

/* Queries do not see cells that the shift brought from the other end of the map. */
static void mask_regions(const fv_cells *c, int first, int lanes, float *logits, ptrdiff_t row) {
  for (int i = 0; i < lanes; i += L) {
    fv_i region;
    for (int l = 0; l < L; ++l) region[l] = c->region[lane_cell(c, first, i + l)];
    for (int t = 0; t < c->count; ++t) {
      float *at = logits + t * row + i;
      const fv_i same = region == ((fv_i){0} + c->region[t]);
      fv_store(at, fv_select(same, fv_load(at), fv_set(-INFINITY)));
    }
  }
}

/* exp2 of the logits less their largest, and one over the sum of it, lane by lane. */
static void softmax(float *logits, ptrdiff_t row, int count, int lanes, fv_f *inverse) {
  for (int i = 0; i * L < lanes; ++i) {
    fv_f top;
    const fv_f sum = fv_exp2_column(logits + i * L, row, count, &top);
    inverse[i] = 1.f / fv_select(sum == 0.f, fv_set(1.f), sum); /* 0: a bias of -inf for all */
  }
}

static void weights_of_block(const fv_arguments *a, fv_workspace *w, int64_t b, int64_t h,
                             int first, int lanes, float *logits, ptrdiff_t row, fv_f *inverse) {
  const fv_cells *c = &w->cells;
  gather(&w->tensors.q, c, b, h, first, lanes, (float)a->run.scale * FV_LOG2E, w->q);
  const ptrdiff_t cells = cells_of(a);
  const float *bias = a->bias ? a->bias + h * cells * cells + first : NULL;
  dot_all(w->q, w->keys, c->count, (int)a->dim, lanes, bias, cells, logits, row);
  if (a->bias) add_bias(a, c, h, first, lanes, logits, row);
  if (c->mixed) mask_regions(c, first, lanes, logits, row);
  softmax(logits, row, c->count, lanes, inverse);
}

/* Scale what belongs to a weight that is kept, zero the others. The dropout hash takes the numbers
 * of a block's queries in (B, H, W, head).
 */
static void drop(const fv_arguments *a, const fv_cells *c, int64_t b, int64_t h, int first,
                 int lanes, float *weights, ptrdiff_t row) {
  const fv_dropout d = fv_dropout_of(&a->run);
  for (int i = 0; i < lanes; i += L) {
    fv_u number;
    for (int l = 0; l < L; ++l) {
      const int cell = lane_cell(c, first + i, l);
      const int64_t y = c->row[cell], x = c->column[cell];
      number[l] = (uint32_t)(((b * a->height + y) * a->width + x) * a->heads + h);
    }
    fv_drop(&d, fv_dropout_query(&d, number), c->place, c->count, weights + i, weights + i, row);
  }
}

#endif
