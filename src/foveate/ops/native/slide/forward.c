/* Slide attention forward.
 *
 * A shift's key is a depthwise convolution of the key map, so that
 *     score[n] = sum over channels d of q[d] (sum over taps j of w[n][j][d] k[d](p + j) + b[n][d]),
 * and the output is a like product of the probabilities and the shifts' values. The shifts' maps
 * are never stored; all queries share the weights, which stay in the first cache.
 *
 * A thread takes a run of rows, counted over images, heads and rows. Every number is computed the
 * same way whatever the count of threads.
 */
#include "products.h"

/* What one thread works in. */
typedef struct {
  float *query, *mixed; /* lines: of the queries, of the output */
  float *sums, *scores;
  fv_ring keys, values;
  float **lines; /* of the keys or values that a row of queries sees */
} fv_workspace;

static void plan(fv_workspace *w, fv_arena *arena, const fv_sizes *s, int key_chunks,
                 int value_chunks) {
  w->query = fv_take(arena, line_size(s->columns, key_chunks));
  w->mixed = fv_take(arena, line_size(s->columns, value_chunks));
  w->sums = fv_take(arena, GROUP * L * L);
  w->scores = fv_take(arena, s->groups * GROUP * s->columns);
  w->keys = take_ring(arena, s, key_chunks);
  w->values = take_ring(arena, s, value_chunks);
  w->lines = take_lines(arena, s);
}

/* Scores become probabilities in place. */
static void softmax_row(const fv_sizes *s, float *scores) {
  for (int64_t x = 0; x < s->width; x += L) {
    fv_f top = fv_load(scores + x), total = {0};
    for (int n = 1; n < s->shifts; ++n) top = fv_max(fv_load(scores + n * s->columns + x), top);
    for (int n = 0; n < s->shifts; ++n) {
      float *at = scores + n * s->columns + x;
      const fv_f part = fv_exp(fv_load(at) - top);
      fv_store(at, part);
      total += part;
    }
    const fv_f factor = 1.0f / total;
    for (int n = 0; n < s->shifts; ++n) {
      float *at = scores + n * s->columns + x;
      fv_store(at, fv_load(at) * factor);
    }
  }
}

static void store_probabilities(const fv_sizes *s, const float *from, float *to, const fv_strip *at,
                                int64_t y) {
  for (int n = 0; n < s->shifts; ++n)
    memcpy(probability_row(s, to, at, n, y), from + n * s->columns, s->width * sizeof(float));
}

static void mix_row(const fv_sizes *s, const float *p, const float *const *values, fv_packed w,
                    int64_t head, int chunks, float *out, const fv_patch ahead[2]) {
  const float *bias = w.bias + head * bias_size(s, chunks);
  if (three_by_three(s))
    mix_body(s, p, values, w.weight, bias, chunks, out, ahead, 3, 3);
  else
    mix_body(s, p, values, w.weight, bias, chunks, out, ahead, s->kernel_h, s->kernel_w);
}

/* The tensors and packed weights of a call. */
typedef struct {
  fv_tensor q, k, v, out;
  fv_packed key_weights, value_weights;
} fv_call;

static void strip_forward(const fv_arguments *a, const fv_workspace *w, const fv_sizes *s,
                          const fv_call *c, const fv_strip *at) {
  const int key_chunks = chunks_of(a->dim), value_chunks = chunks_of(a->value_dim);
  const float *const *lines = (const float *const *)w->lines;
  start_ring(s, &w->keys, &c->k, at, at->first);
  start_ring(s, &w->values, &c->v, at, at->first);
  for (int64_t y = at->first; y < at->last; ++y) {
    const int64_t newest = y - s->top + s->kernel_h - 1;
    load_line(s, &c->q, at, y, s->scale, s->columns, w->query);
    fill_ring(s, &w->keys, &c->k, at, newest);
    fill_ring(s, &w->values, &c->v, at, newest);
    ring_lines(s, &w->keys, y, w->lines);
    const fv_patch for_scores[] = {row_ahead(s, &c->q, at, y, 1),
                                   row_ahead(s, &c->k, at, newest, 1)};
    const fv_patch for_out[] = {row_ahead(s, &c->out, at, y, 0),
                                row_ahead(s, &c->v, at, newest, 1)};
    score_row(s, w->query, lines, c->key_weights, at->head, key_chunks, w->sums, w->scores,
              for_scores);
    softmax_row(s, w->scores);
    if (a->probabilities) store_probabilities(s, w->scores, a->probabilities, at, y);
    if (s->drops) drop_row(s, at, y, w->scores, w->scores);
    ring_lines(s, &w->values, y, w->lines);
    mix_row(s, w->scores, lines, c->value_weights, at->head, value_chunks, w->mixed, for_out);
    store_line(s, w->mixed, s->columns, 1.0f, &c->out, at, y);
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(slide_forward)(const fv_arguments *a) {
  check_arguments(a);
  const fv_sizes sizes = sizes_of(a), *s = &sizes;
  if (s->rows == 0) return 0;
  assert(a->out);
  const int key_chunks = chunks_of(a->dim), value_chunks = chunks_of(a->value_dim);
  fv_call call = {.q = fv_tensor_of(&a->q, a->storage, a->dim),
                  .k = fv_tensor_of(&a->k, a->storage, a->dim),
                  .v = fv_tensor_of(&a->v, a->storage, a->value_dim),
                  .out = contiguous(s, a->out, a->value_dim)};
  fv_workspace sketch;
  fv_arena shared = {0}, own = {0};
  take_packed(&shared, s, key_chunks);
  take_packed(&shared, s, value_chunks);
  plan(&sketch, &own, s, key_chunks, value_chunks);
  float *memory = fv_alloc(shared.used + (size_t)s->threads * own.used);
  if (!memory) return 1;
  fv_expect_tensor(&call.out, s->batch);
  shared = (fv_arena){memory, 0};
  call.key_weights = take_packed(&shared, s, key_chunks);
  call.value_weights = take_packed(&shared, s, value_chunks);
  pack(s, a->key_weight, a->key_bias, a->key_bias_stride, (int)a->dim, true, call.key_weights);
  pack(s, a->value_weight, a->value_bias, a->value_bias_stride, (int)a->value_dim, true,
       call.value_weights);

#pragma omp parallel num_threads(s->threads)
  {
    fv_workspace w;
    fv_arena arena = {memory + shared.used + (size_t)fv_thread() * own.used, 0};
    memset(arena.memory, 0, own.used * sizeof(float));
    plan(&w, &arena, s, key_chunks, value_chunks);
    const fv_range rows = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = rows.begin; row < rows.end;) {
      const fv_strip at = strip_at(s, row, rows.end);
      strip_forward(a, &w, s, &call, &at);
      row += at.last - at.first;
    }
  }
  fv_free(memory);
  return 0;
}
