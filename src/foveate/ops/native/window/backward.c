/* Window attention, backward: the weights of a window are computed again, all blocks of queries of
 * it are kept, and its keys and values collect from them. Every cell lies in one window, so no two
 * threads write the same gradient; that of the bias is summed thread by thread.
 */
#include "logits.h"

/* The gradient of every key, or value, of a window, from the rows of its queries. */
static void collect(const fv_tensor *to, const fv_cells *c, int64_t b, int64_t h,
                    const float *weights, ptrdiff_t weights_row, const float *rows, ptrdiff_t row,
                    float *between) {
  for (int t = 0; t < c->count; t += TAPS) {
    const int taps = c->count - t < TAPS ? c->count - t : TAPS;
    const float *from = weights + t * weights_row;
    if (taps == TAPS)
      collect_columns(from, weights_row, rows, row, c->count, TAPS, between);
    else
      for (int j = 0; j < taps; ++j)
        collect_columns(from + j * weights_row, weights_row, rows, row, c->count, 1,
                        between + j * row);
    for (int j = 0; j < taps; ++j) write_row(to, between + j * row, row_of(to, c, b, h, t + j));
  }
}

/* Rows of all cells, [cell][channel padded with zeros to whole vectors], times factor. */
static void gather_rows(const fv_tensor *from, const fv_cells *c, int64_t b, int64_t h,
                        ptrdiff_t row, float factor, float *to) {
  for (int t = 0; t < c->count; ++t) {
    read_row(from, row_of(from, c, b, h, t), to + t * row, factor);
    for (ptrdiff_t d = from->dim; d < row; ++d) to[t * row + d] = 0.f;
  }
}

static void normalise(const fv_cells *c, int lanes, const fv_f *inverse, float *weights,
                      ptrdiff_t row) {
  for (int i = 0; i * L < lanes; ++i)
    for (int t = 0; t < c->count; ++t) {
      float *at = weights + t * row + i * L;
      fv_store(at, fv_load(at) * inverse[i]);
    }
}

static void add_to_bias(const fv_arguments *a, const fv_cells *c, int64_t h, const float *dlogits,
                        ptrdiff_t row, float *d_bias) {
  const ptrdiff_t cells = cells_of(a);
  float *to = d_bias + h * cells * cells;
  for (int t = 0; t < c->count; ++t)
    for (int q = 0; q < c->count; ++q)
      to[c->place[t] * cells + c->place[q]] += dlogits[t * row + q];
}

static void backward_of_window(const fv_arguments *a, fv_workspace *w, int64_t b, int64_t h) {
  const fv_cells *c = &w->cells;
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const ptrdiff_t row = fv_round_up(cells_of(a), BLOCK), wide = fv_round_up(dim, L);
  const ptrdiff_t value_wide = fv_round_up(value_dim, L);
  const float scale = (float)a->run.scale;
  const fv_f factor[2] = {fv_set(scale), fv_set(scale)};
  point_at_rows(a, w, b, h);
  gather_rows(&w->tensors.q, c, b, h, wide, scale, w->q_rows);
  gather_rows(&w->tensors.grad_out, c, b, h, value_wide, 1.f, w->grad_rows);
  for (int first = 0; first < c->count; first += BLOCK) {
    const int lanes = c->count - first < BLOCK ? c->count - first : BLOCK;
    float *weights = w->logits + first, *dlogits = w->dlogits + first;
    fv_f inverse[2];
    weights_of_block(a, w, b, h, first, lanes, weights, row, inverse);
    normalise(c, lanes, inverse, weights, row);
    gather(&w->tensors.grad_out, c, b, h, first, lanes, 1.f, w->grad);
    dot_all(w->grad, w->values, c->count, value_dim, lanes, NULL, 0, dlogits, row);
    if (a->run.threshold) drop(a, c, b, h, first, lanes, dlogits, row);
    for (int i = 0; i < lanes; i += L) fv_softmax_backward(weights + i, dlogits + i, row, c->count);
    if (a->run.threshold) drop(a, c, b, h, first, lanes, weights, row);
    mix_all(dlogits, row, w->keys, c->count, dim, lanes, factor, w->q);
    scatter(&w->tensors.dq, c, b, h, first, lanes, w->q, w->lanes);
  }
  collect(&w->tensors.dv, c, b, h, w->logits, row, w->grad_rows, value_wide, w->lanes);
  collect(&w->tensors.dk, c, b, h, w->dlogits, row, w->q_rows, wide, w->lanes);
  if (w->d_bias) add_to_bias(a, c, h, w->dlogits, row, w->d_bias);
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(window_backward)(const fv_arguments *a) {
  check_arguments(a);
  if (a->batch) fv_check_view(&a->grad_out, a->storage, a->value_dim, true);
  assert(!a->batch || (a->dq && a->dk && a->dv));
  assert(!a->d_bias || a->bias);
  if (!a->d_bias) return each_window(a, true, NULL, 0, backward_of_window);
  const ptrdiff_t floats = a->heads * cells_of(a) * cells_of(a);
  float *sums = fv_alloc((size_t)(floats * a->run.threads));
  if (!sums) return 1;
  memset(sums, 0, (size_t)(floats * a->run.threads) * sizeof(float));
  const int failed = each_window(a, true, sums, floats, backward_of_window);
  for (ptrdiff_t i = 0; i < floats; ++i) {
    a->d_bias[i] = 0.f;
    for (int64_t thread = 0; thread < a->run.threads; ++thread)
      a->d_bias[i] += sums[thread * floats + i];
  }
  fv_free(sums);
  return failed;
}
