/* Slide attention backward, from the forward's probabilities.
 *
 * The probabilities' gradient is a row of scores of the output's gradient and the shifts' values.
 * One blend of the weights over the shifts then gives a query's gradient and, times the query, its
 * share of the gradients of the keys it saw; the values' gradients likewise. Shares are added up
 * in rings of lines: a row is complete when the last row of queries that sees it is done.
 *
 * A thread takes a run of rows of the gradients. The rows of queries around the run see rows of it
 * too and are computed again, as keys as that needs; no two threads write to one place. Results
 * depend on the count of threads only in the order in which the threads' sums of the weights'
 * gradients are added.
 */
#include "products.h"

/* The two sides of the attention: queries with keys, and the output's gradient, here the query,
 * with values, here the keys.
 */
typedef struct {
  fv_tensor query, keys, d_keys;
  fv_packed by_shift, by_tap;
  fv_packed d_weights;  /* packed by taps */
  float *line, *d_line; /* of the query */
  fv_ring ring, d_ring; /* of the keys */
  float **lines, **d_lines;
} fv_side;

/* What one thread works in; all zero at first. */
typedef struct {
  fv_side keys, values;
  float *sums, *p, *dropped, *d_p;
} fv_workspace;

static void plan_side(fv_side *side, fv_arena *arena, const fv_sizes *s, bool weights_too) {
  const int chunks = chunks_of(side->query.dim);
  if (weights_too) side->d_weights = take_packed(arena, s, chunks);
  side->line = fv_take(arena, line_size(s->columns, chunks));
  side->d_line = fv_take(arena, line_size(s->columns, chunks));
  side->ring = take_ring(arena, s, chunks);
  side->d_ring = take_ring(arena, s, chunks);
  side->lines = take_lines(arena, s);
  side->d_lines = take_lines(arena, s);
}

/* The sides' tensors and packed weights are there already. */
static void plan(fv_workspace *w, fv_arena *arena, const fv_sizes *s, bool weights_too) {
  const int64_t size = s->groups * GROUP * s->columns;
  plan_side(&w->keys, arena, s, weights_too);
  plan_side(&w->values, arena, s, weights_too);
  w->sums = fv_take(arena, GROUP * L * L);
  w->p = fv_take(arena, size);
  w->dropped = fv_take(arena, size);
  w->d_p = fv_take(arena, size);
}

static void load_probabilities(const fv_sizes *s, float *from, const fv_strip *at, int64_t y,
                               float *to) {
  for (int n = 0; n < s->shifts; ++n)
    memcpy(to + n * s->columns, probability_row(s, from, at, n, y), s->width * sizeof(float));
}

/* The gradient of the probabilities becomes that of the scores, in place. */
static void softmax_backward_row(const fv_sizes *s, const float *p, float *gradient) {
  for (int64_t x = 0; x < s->width; x += L)
    fv_softmax_backward(p + x, gradient + x, s->columns, s->shifts);
}

/* mix: query's own gradient too. */
static void blend_row(const fv_sizes *s, const fv_side *side, int64_t head, const float *p,
                      int first, int last, bool mix, const fv_patch *ahead) {
  const float *const *keys = (const float *const *)side->lines;
  const float *weight = side->by_tap.weight;
  const int chunks = chunks_of(side->query.dim);
  const float *bias = side->by_tap.bias + head * bias_size(s, chunks);
#define BLEND(mix, kernel_w, taps)                                                    \
  blend_body(s, p, side->line, keys, weight, bias, chunks, first, last, side->d_line, \
             side->d_lines, ahead, mix, kernel_w, taps)
  if (three_by_three(s) && mix)
    BLEND(true, 3, 9);
  else if (three_by_three(s))
    BLEND(false, 3, 9);
  else if (mix)
    BLEND(true, s->kernel_w, s->taps);
  else
    BLEND(false, s->kernel_w, s->taps);
#undef BLEND
}

/* The gradients of the weights and biases gain what a row of queries gives them. */
static void weight_row(const fv_sizes *s, const float *p, const fv_side *side, int64_t head) {
  const float *const *keys = (const float *const *)side->lines;
  const int chunks = chunks_of(side->query.dim);
  float *d_weight = side->d_weights.weight,
        *d_bias = side->d_weights.bias + head * bias_size(s, chunks);
  for (int group = 0; group < s->groups; ++group, p += GROUP * s->columns)
    for (int chunk = 0; chunk < chunks; ++chunk, d_bias += GROUP * L) {
      const float *query = side->line + chunk * s->columns * L;
      const int64_t keys_at = chunk * s->pitch * L;
      int tap = 0;
      for (; tap + TAP_BLOCK <= s->taps; tap += TAP_BLOCK, d_weight += TAP_BLOCK * GROUP * L)
        weight_taps(s, p, query, keys, keys_at, tap, TAP_BLOCK, d_weight);
      for (; tap < s->taps; ++tap, d_weight += GROUP * L)
        weight_taps(s, p, query, keys, keys_at, tap, 1, d_weight);
      weight_taps(s, p, query, 0, 0, 0, 1, d_bias);
    }
}

/* Row y of a map's gradient is complete: store it, if it is in the strip, and clear its line. */
static void finish_row(const fv_sizes *s, const fv_side *side, const fv_strip *at, int64_t y) {
  if (y < at->first || y >= at->last) return;
  float *line = ring_line(s, &side->d_ring, y);
  store_line(s, line + s->left * L, s->pitch, 1.0f, &side->d_keys, at, y);
  memset(line, 0, side->d_ring.size * sizeof(float));
}

/* What a row of queries needs of a side; the rings then hold the lines that it sees. */
static void load_side(const fv_sizes *s, const fv_side *side, const fv_strip *at, int64_t y,
                      float factor) {
  load_line(s, &side->query, at, y, factor, s->columns, side->line);
  fill_ring(s, &side->ring, &side->keys, at, y - s->top + s->kernel_h - 1);
  ring_lines(s, &side->ring, y, side->lines);
  ring_lines(s, &side->d_ring, y, side->d_lines);
}

static void strip_backward(const fv_arguments *a, const fv_workspace *w, const fv_sizes *s,
                           const fv_tensor *d_q, const fv_strip *at) {
  const fv_side *keys = &w->keys, *values = &w->values;
  const int64_t below = s->kernel_h - 1 - s->top;
  const int64_t begin = at->first < below ? 0 : at->first - below;
  const int64_t end = at->last + s->top < s->height ? at->last + s->top : s->height;
  start_ring(s, &keys->ring, &keys->keys, at, begin);
  start_ring(s, &values->ring, &values->keys, at, begin);
  for (int64_t y = begin; y < end; ++y) {
    const bool owned = y >= at->first && y < at->last;
    const int64_t before = at->first - y + s->top, after = at->last - y + s->top;
    const int first = before > 0 ? (int)before : 0;
    const int last = after < s->kernel_h ? (int)after : s->kernel_h;
    load_side(s, values, at, y, 1.0f);
    load_side(s, keys, at, y, s->scale);

    const int64_t complete = y - s->top > at->first ? y - s->top : at->first;
    const fv_patch value_ahead[] = {row_ahead(s, &values->query, at, y, 1),
                                    row_ahead(s, &values->keys, at, y + below, 1),
                                    row_ahead(s, &values->d_keys, at, complete, 0)};
    const fv_patch key_ahead[] = {
        row_ahead(s, &keys->query, at, y, 1), row_ahead(s, &keys->keys, at, y + below, 1),
        row_ahead(s, &keys->d_keys, at, complete, 0), row_ahead(s, d_q, at, y, 0)};
    load_probabilities(s, a->probabilities, at, y, w->p);
    score_row(s, values->line, (const float *const *)values->lines, values->by_shift, at->head,
              chunks_of(a->value_dim), w->sums, w->d_p, value_ahead);
    const float *weight = w->p;
    if (s->drops) {
      drop_row(s, at, y, w->p, w->dropped);
      drop_row(s, at, y, w->d_p, w->d_p);
      weight = w->dropped;
    }
    softmax_backward_row(s, w->p, w->d_p);

    blend_row(s, values, at->head, weight, first, last, false, value_ahead);
    blend_row(s, keys, at->head, w->d_p, first, last, owned, key_ahead);
    if (owned) {
      store_line(s, keys->d_line, s->columns, s->scale, d_q, at, y);
      if (a->d_key_weight) {
        weight_row(s, w->d_p, keys, at->head);
        weight_row(s, weight, values, at->head);
      }
    }
    finish_row(s, keys, at, y - s->top);
    finish_row(s, values, at, y - s->top);
  }
  for (int64_t y = end - s->top; y < at->last; ++y) {
    finish_row(s, keys, at, y);
    finish_row(s, values, at, y);
  }
}

/* weight (shifts, taps, D), bias (heads or 1, shifts, D) = sums of the threads' packed ones. */
static void unpack(const fv_sizes *s, const float *partial, int64_t stride, int threads, int dim,
                   bool shared_bias, float *weight, float *bias) {
  const int chunks = chunks_of(dim);
  memset(weight, 0, (int64_t)s->shifts * s->taps * dim * sizeof(float));
  memset(bias, 0, (shared_bias ? 1 : s->heads) * s->shifts * dim * sizeof(float));
  for (int thread = 0; thread < threads; ++thread) {
    const float *from = partial + thread * stride;
    for (int group = 0; group < s->groups; ++group)
      for (int chunk = 0; chunk < chunks; ++chunk)
        for (int64_t j = 0; j < s->taps; ++j)
          for (int64_t n = group * GROUP; n < (group + 1) * GROUP; ++n)
            for (int d = chunk * L; d < (chunk + 1) * L; ++d, ++from)
              if (n < s->shifts && d < dim) weight[(n * s->taps + j) * dim + d] += *from;
    for (int64_t head = 0; head < s->heads; ++head)
      for (int group = 0; group < s->groups; ++group)
        for (int chunk = 0; chunk < chunks; ++chunk)
          for (int64_t n = group * GROUP; n < (group + 1) * GROUP; ++n)
            for (int d = chunk * L; d < (chunk + 1) * L; ++d, ++from)
              if (n < s->shifts && d < dim)
                bias[((shared_bias ? 0 : head) * s->shifts + n) * dim + d] += *from;
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(slide_backward)(const fv_arguments *a) {
  check_arguments(a);
  if (a->batch) fv_check_view(&a->grad_out, a->storage, a->value_dim, false);
  assert(!a->batch || (a->probabilities && a->dq && a->dk && a->dv));
  assert(!a->d_key_weight || (a->d_key_bias && a->d_value_weight && a->d_value_bias));
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const int key_chunks = chunks_of(dim), value_chunks = chunks_of(value_dim);
  const bool weights_too = a->d_key_weight != NULL;
  const fv_tensor d_q = contiguous(s, a->dq, dim);
  fv_workspace first = {.keys = {.query = fv_tensor_of(&a->q, a->storage, dim),
                                 .keys = fv_tensor_of(&a->k, a->storage, dim),
                                 .d_keys = contiguous(s, a->dk, dim)},
                        .values = {.query = fv_tensor_of(&a->grad_out, a->storage, value_dim),
                                   .keys = fv_tensor_of(&a->v, a->storage, value_dim),
                                   .d_keys = contiguous(s, a->dv, value_dim)}};
  fv_arena shared = {0}, own = {0};
  take_packed(&shared, s, key_chunks);
  take_packed(&shared, s, value_chunks);
  take_packed(&shared, s, value_chunks);
  plan(&first, &own, s, weights_too);
  float *memory = fv_alloc(shared.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  fv_expect_tensor(&d_q, s->batch);
  fv_expect_tensor(&first.keys.d_keys, s->batch);
  fv_expect_tensor(&first.values.d_keys, s->batch);
  shared = (fv_arena){memory, 0};
  first.keys.by_tap = take_packed(&shared, s, key_chunks);
  first.values.by_tap = take_packed(&shared, s, value_chunks);
  first.values.by_shift = take_packed(&shared, s, value_chunks);
  pack(s, a->key_weight, a->key_bias, a->key_bias_stride, dim, false, first.keys.by_tap);
  pack(s, a->value_weight, a->value_bias, a->value_bias_stride, value_dim, false,
       first.values.by_tap);
  pack(s, a->value_weight, a->value_bias, a->value_bias_stride, value_dim, true,
       first.values.by_shift);
  fv_arena of_first = {memory + shared.used, 0};
  plan(&first, &of_first, s, weights_too);

  int threads = 0; /* that there are; fewer than were asked for, if the system says so */
  if (s->threads > 0) {
#pragma omp parallel num_threads(s->threads)
    {
      if (!fv_thread()) threads = fv_threads();
      fv_workspace w = first;
      fv_arena arena = {memory + shared.used + (size_t)fv_thread() * own.used, 0};
      memset(arena.memory, 0, own.used * sizeof(float));
      plan(&w, &arena, s, weights_too);
      const fv_range range = fv_split(s->rows, fv_threads(), fv_thread());
      for (int64_t row = range.begin; row < range.end;) {
        const fv_strip at = strip_at(s, row, range.end);
        strip_backward(a, &w, s, &d_q, &at);
        row += at.last - at.first;
      }
    }
  }
  if (weights_too) {
    const int64_t stride = (int64_t)own.used;
    unpack(s, first.keys.d_weights.weight, stride, threads, dim, !a->key_bias_stride,
           a->d_key_weight, a->d_key_bias);
    unpack(s, first.values.d_weights.weight, stride, threads, value_dim, !a->value_bias_stride,
           a->d_value_weight, a->d_value_bias);
  }
  fv_free(memory);
  return 0;
}
