/* Slide attention backward, from the forward's probabilities.
 *
 * The probabilities' gradient is a row of scores of the output's gradient and the slots' values.
 * One blend of the weights over the slots then gives a query's gradient and, times the query, its
 * share of the gradients of the keys it saw; the values' gradients likewise. Shares are added up
 * in rings of lines: a row is complete when the last row of queries that sees it is done.
 *
 * A thread takes a run of rows of the gradients. The rows of queries around the run see rows of it
 * too and are computed again, as far as that needs; no two threads write to one place. Results
 * depend on the count of threads only in the order in which the threads' sums of the weights'
 * gradients are added.
 */
#include "slide_products.h"

struct backward {
  struct common common;
  void *gradient; /* of the output */
  int64_t gradient_strides[5];
  void *d_q, *d_k, *d_v; /* contiguous */
  /* Like the weights, contiguous; all null where none is asked for. */
  float *d_key_weight, *d_key_bias, *d_value_weight, *d_value_bias;
};

/* The two sides of the attention: keys with queries, values with the output's gradient. */
struct side {
  struct map near, far, d_far;
  struct packed by_slot, by_tap;
  float *d_weight, *d_bias;
  float *line, *d_line;
  struct ring ring, d_ring;
  float **lines, **d_lines;
};

static void load_probabilities(const struct problem *s, float *from, const struct strip *at,
                               int64_t y, float *to) {
  for (int n = 0; n < s->slots; n++)
    memcpy(to + n * s->columns, probability_row(s, from, at, n, y), s->width * sizeof(float));
}

/* The gradient of the probabilities becomes that of the scores, in place. */
static void softmax_backward_row(const struct problem *s, const float *p, float *gradient) {
  for (int64_t x = 0; x < s->width; x += L) {
    fv_f mean = {0};
    for (int n = 0; n < s->slots; n++)
      mean += fv_load(p + n * s->columns + x) * fv_load(gradient + n * s->columns + x);
    for (int n = 0; n < s->slots; n++) {
      float *to = gradient + n * s->columns + x;
      fv_store(to, fv_load(p + n * s->columns + x) * (fv_load(to) - mean));
    }
  }
}

/* mix: near's own gradient too. */
static void blend_row(const struct problem *s, const struct side *side, int64_t head,
                      const float *p, int first, int last, bool mix,
                      const struct ahead *ahead) {
  const float *const *far = (const float *const *)side->lines;
  const float *weight = side->by_tap.weight;
  const int chunks = side->near.chunks;
  const float *bias = side->by_tap.bias + head * bias_size(s, chunks);
#define BLEND(mix, kernel_width, taps)                                                       \
  blend_body(s, p, side->line, far, weight, bias, chunks, first, last, side->d_line,         \
             side->d_lines, ahead, mix, kernel_width, taps)
  if (three_by_three(s) && mix) BLEND(true, 3, 9);
  else if (three_by_three(s)) BLEND(false, 3, 9);
  else if (mix) BLEND(true, s->kernel_width, s->taps);
  else BLEND(false, s->kernel_width, s->taps);
#undef BLEND
}

/* The gradients of the weights and biases gain what a row of queries gives them. */
static void weight_row(const struct problem *s, const float *p, const struct side *side,
                       int64_t head) {
  const float *const *far = (const float *const *)side->lines;
  const int chunks = side->near.chunks;
  float *d_weight = side->d_weight, *d_bias = side->d_bias + head * bias_size(s, chunks);
  for (int group = 0; group < s->groups; group++, p += GROUP * s->columns)
    for (int chunk = 0; chunk < chunks; chunk++, d_bias += GROUP * L) {
      const float *query = side->line + chunk * s->columns * L;
      const int64_t far_at = chunk * s->pitch * L;
      int tap = 0;
      for (; tap + TAP_BLOCK <= s->taps; tap += TAP_BLOCK, d_weight += TAP_BLOCK * GROUP * L)
        weight_taps(s, p, query, far, far_at, tap, TAP_BLOCK, d_weight);
      for (; tap < s->taps; tap++, d_weight += GROUP * L)
        weight_taps(s, p, query, far, far_at, tap, 1, d_weight);
      weight_taps(s, p, query, 0, 0, 0, 1, d_bias);
    }
}

/* Row y of a map's gradient is complete: store it, if it is in the strip, and clear its line. */
static void finish_row(const struct problem *s, const struct side *side, const struct strip *at,
                       int64_t y) {
  if (y < at->first || y >= at->last) return;
  float *line = ring_line(s, &side->d_ring, y);
  store_line(s, line + s->left * L, s->pitch, 1.0f, &side->d_far, at, y);
  memset(line, 0, side->d_ring.size * sizeof(float));
}

/* What a row of queries needs of a side; the rings then hold the lines that it sees. */
static void load_side(const struct problem *s, const struct side *side, const struct strip *at,
                      int64_t y, float factor) {
  load_line(s, &side->near, at, y, factor, s->columns, side->line);
  fill_ring(s, &side->ring, &side->far, at, y - s->top + s->kernel_height - 1);
  ring_lines(s, &side->ring, y, side->lines);
  ring_lines(s, &side->d_ring, y, side->d_lines);
}

/* Memory for the rows that one thread is at, all zero at first. */
struct rows {
  float *sums, *p, *dropped, *d_p;
};

static void strip_backward(const struct problem *s, const struct backward *call,
                           const struct strip *at, const struct side *keys,
                           const struct side *values, const struct map *d_q,
                           const struct rows *rows) {
  const int64_t below = s->kernel_height - 1 - s->top;
  const int64_t begin = at->first < below ? 0 : at->first - below;
  const int64_t end = at->last + s->top < s->height ? at->last + s->top : s->height;
  start_ring(s, &keys->ring, &keys->far, at, begin);
  start_ring(s, &values->ring, &values->far, at, begin);
  for (int64_t y = begin; y < end; y++) {
    const bool own = y >= at->first && y < at->last;
    const int64_t before = at->first - y + s->top, after = at->last - y + s->top;
    const int first = before > 0 ? (int)before : 0;
    const int last = after < s->kernel_height ? (int)after : s->kernel_height;
    load_side(s, values, at, y, 1.0f);
    load_side(s, keys, at, y, s->scale);

    const int64_t complete = y - s->top > at->first ? y - s->top : at->first;
    const struct ahead value_ahead[] = {
        ahead_of(s, &values->near, at, y, 1), ahead_of(s, &values->far, at, y + below, 1),
        ahead_of(s, &values->d_far, at, complete, 0)};
    const struct ahead key_ahead[] = {
        ahead_of(s, &keys->near, at, y, 1), ahead_of(s, &keys->far, at, y + below, 1),
        ahead_of(s, &keys->d_far, at, complete, 0), ahead_of(s, d_q, at, y, 0)};
    load_probabilities(s, call->common.probabilities, at, y, rows->p);
    score_row(s, values->line, (const float *const *)values->lines, values->by_slot, at->head,
              values->near.chunks, rows->sums, rows->d_p, value_ahead);
    const float *weight = rows->p;
    if (s->drops) {
      drop_row(s, at, y, rows->p, rows->dropped);
      drop_row(s, at, y, rows->d_p, rows->d_p);
      weight = rows->dropped;
    }
    softmax_backward_row(s, rows->p, rows->d_p);

    blend_row(s, values, at->head, weight, first, last, false, value_ahead);
    blend_row(s, keys, at->head, rows->d_p, first, last, own, key_ahead);
    if (own) {
      store_line(s, keys->d_line, s->columns, s->scale, d_q, at, y);
      if (call->d_key_weight) {
        weight_row(s, rows->d_p, keys, at->head);
        weight_row(s, weight, values, at->head);
      }
    }
    finish_row(s, keys, at, y - s->top);
    finish_row(s, values, at, y - s->top);
  }
  for (int64_t y = end - s->top; y < at->last; y++) {
    finish_row(s, keys, at, y);
    finish_row(s, values, at, y);
  }
}

/* weight (slots, taps, D), bias (heads or 1, slots, D) = sums of the threads' packed ones. */
static void unpack(const struct problem *s, const float *partial, int64_t stride, int threads,
                   int depth, bool shared_bias, float *weight, float *bias) {
  const int chunks = chunks_of(depth);
  memset(weight, 0, (int64_t)s->slots * s->taps * depth * sizeof(float));
  memset(bias, 0, (shared_bias ? 1 : s->heads) * s->slots * depth * sizeof(float));
  for (int thread = 0; thread < threads; thread++) {
    const float *from = partial + thread * stride;
    for (int group = 0; group < s->groups; group++)
      for (int chunk = 0; chunk < chunks; chunk++)
        for (int64_t j = 0; j < s->taps; j++)
          for (int64_t n = group * GROUP; n < (group + 1) * GROUP; n++)
            for (int d = chunk * L; d < (chunk + 1) * L; d++, from++)
              if (n < s->slots && d < depth) weight[(n * s->taps + j) * depth + d] += *from;
    for (int64_t head = 0; head < s->heads; head++)
      for (int group = 0; group < s->groups; group++)
        for (int chunk = 0; chunk < chunks; chunk++)
          for (int64_t n = group * GROUP; n < (group + 1) * GROUP; n++)
            for (int d = chunk * L; d < (chunk + 1) * L; d++, from++)
              if (n < s->slots && d < depth)
                bias[((shared_bias ? 0 : head) * s->slots + n) * depth + d] += *from;
  }
}

/* Floats that one thread needs for one side. */
static int64_t side_size(const struct problem *s, int chunks, bool weights_too) {
  return 2 * line_size(s->columns, chunks) +
         2 * s->kernel_height * line_size(s->pitch, chunks) + 2 * addresses_size(s) +
         (weights_too ? packed_size(s, chunks) : 0);
}

/* Lay a thread's part of a side out in memory, zeroed; returns what follows it. The weights'
 * gradients come first. */
static float *lay_out(const struct problem *s, struct side *side, bool weights_too, float *memory) {
  const int chunks = side->near.chunks;
  const int64_t line = line_size(s->columns, chunks), far_line = line_size(s->pitch, chunks);
  memset(memory, 0, side_size(s, chunks, weights_too) * sizeof(float));
  if (weights_too) {
    side->d_weight = memory;
    side->d_bias = memory + weight_size(s, chunks);
    memory += packed_size(s, chunks);
  }
  side->line = memory;
  side->d_line = memory + line;
  side->ring = (struct ring){memory + 2 * line, far_line};
  side->d_ring = (struct ring){memory + 2 * line + s->kernel_height * far_line, far_line};
  memory += 2 * (line + s->kernel_height * far_line);
  side->lines = (float **)memory;
  side->d_lines = (float **)(memory + addresses_size(s));
  return memory + 2 * addresses_size(s);
}

/* Gradients of q, k, v and the weights. Returns 1 without memory. */
FV_EXPORT int FV(slide_backward)(const struct backward *call) {
  const struct common *c = &call->common;
  const struct problem problem = describe(c), *s = &problem;
  const int64_t D = c->depth, E = c->value_depth;
  const bool weights_too = call->d_key_weight != NULL;
  const struct map d_q = contiguous_map(s, call->d_q, D);
  struct side keys = {.near = map_of(c->q, c->strides[0], s->storage, D),
                      .far = map_of(c->k, c->strides[1], s->storage, D),
                      .d_far = contiguous_map(s, call->d_k, D)};
  struct side values = {.near = map_of(call->gradient, call->gradient_strides, s->storage, E),
                        .far = map_of(c->v, c->strides[2], s->storage, E),
                        .d_far = contiguous_map(s, call->d_v, E)};
  const int64_t key_packed = packed_size(s, keys.near.chunks);
  const int64_t value_packed = packed_size(s, values.near.chunks);
  const int64_t key_side = side_size(s, keys.near.chunks, weights_too);
  const int64_t value_side = side_size(s, values.near.chunks, weights_too);
  const int64_t sums_size = GROUP * L * L, p_size = s->groups * GROUP * s->columns;
  const int64_t scratch = key_side + value_side + sums_size + 3 * p_size;
  float *memory = fv_alloc(key_packed + 2 * value_packed + s->threads * scratch);
  if (!memory) return 1;
  expect_writes(s, &d_q), expect_writes(s, &keys.d_far), expect_writes(s, &values.d_far);
  float *all_scratch = memory + key_packed + 2 * value_packed;
  keys.by_tap = packed_at(s, memory, keys.near.chunks);
  values.by_tap = packed_at(s, memory + key_packed, values.near.chunks);
  values.by_slot = packed_at(s, memory + key_packed + value_packed, values.near.chunks);
  pack(s, c->key_weight, c->key_bias, c->key_bias_stride, (int)D, false, keys.by_tap);
  pack(s, c->value_weight, c->value_bias, c->value_bias_stride, (int)E, false, values.by_tap);
  pack(s, c->value_weight, c->value_bias, c->value_bias_stride, (int)E, true, values.by_slot);

  int threads = 0; /* that there are; fewer than were asked for, if the system says so */
  if (s->threads > 0) {
#pragma omp parallel num_threads(s->threads)
    {
      if (!fv_thread()) threads = fv_threads();
      struct side own_keys = keys, own_values = values;
      float *rest = all_scratch + fv_thread() * scratch;
      rest = lay_out(s, &own_keys, weights_too, rest);
      rest = lay_out(s, &own_values, weights_too, rest);
      memset(rest, 0, (sums_size + 3 * p_size) * sizeof(float));
      float *p = rest + sums_size;
      const struct rows rows = {rest, p, p + p_size, p + 2 * p_size};
      const fv_range range = fv_split(s->rows, fv_threads(), fv_thread());
      for (int64_t row = range.begin; row < range.end;) {
        const struct strip at = strip_at(s, row, range.end);
        strip_backward(s, call, &at, &own_keys, &own_values, &d_q, &rows);
        row += at.last - at.first;
      }
    }
  }
  if (weights_too) {
    unpack(s, all_scratch, scratch, threads, (int)D, !c->key_bias_stride, call->d_key_weight,
           call->d_key_bias);
    unpack(s, all_scratch + key_side, scratch, threads, (int)E, !c->value_bias_stride,
           call->d_value_weight, call->d_value_bias);
  }
  fv_free(memory);
  return 0;
}
