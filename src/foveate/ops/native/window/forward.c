/* Window attention, forward: every query sees the cells of its own window, and no others.
 *
 * Queries stand side by side in vector lanes, so that the softmax runs down a column of logits
 * [key][lane] and needs no sum across lanes. Keys and values are read where they lie, a number at a
 * time for all lanes; only queries are transposed.
 */
#include "logits.h"

static void forward_of_window(const fv_arguments *a, fv_workspace *w, int64_t b, int64_t h) {
  const fv_cells *c = &w->cells;
  point_at_rows(a, w, b, h);
  for (int first = 0; first < c->count; first += BLOCK) {
    const int lanes = c->count - first < BLOCK ? c->count - first : BLOCK;
    fv_f inverse[2];
    weights_of_block(a, w, b, h, first, lanes, w->logits, BLOCK, inverse);
    if (a->run.threshold) drop(a, c, b, h, first, lanes, w->logits, BLOCK);
    mix_all(w->logits, BLOCK, w->values, c->count, (int)a->value_dim, lanes, inverse, w->grad);
    scatter(&w->tensors.out, c, b, h, first, lanes, w->grad, w->lanes);
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(window_forward)(const fv_arguments *a) {
  check_arguments(a);
  assert(!a->batch || a->out);
  return each_window(a, false, NULL, 0, forward_of_window);
}
