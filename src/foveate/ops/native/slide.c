/* Slide attention forward.
 *
 * A slot's key is a depthwise convolution of the key map, so that
 *     score[n] = sum over channels d of q[d] (sum over taps j of w[n][j][d] k[d](p + j) + b[n][d]),
 * and the output is a like product of the probabilities and the slots' values. The slots' maps are
 * never stored; all queries share the weights, which stay in the first cache.
 *
 * A thread takes a run of rows, counted over images, heads and rows. Every number is computed the
 * same way whatever the count of threads.
 */
#include "slide_products.h"

struct forward {
  struct common common;
  void *out; /* contiguous */
};

/* Scores become probabilities in place. */
static void softmax_row(const struct problem *s, float *scores) {
  for (int64_t x = 0; x < s->width; x += L) {
    fv_f top = fv_load(scores + x), total = {0};
    for (int n = 1; n < s->slots; n++) top = fv_max(fv_load(scores + n * s->columns + x), top);
    for (int n = 0; n < s->slots; n++) {
      float *at = scores + n * s->columns + x;
      const fv_f part = fv_exp(fv_load(at) - top);
      fv_store(at, part);
      total += part;
    }
    const fv_f factor = 1.0f / total;
    for (int n = 0; n < s->slots; n++) {
      float *at = scores + n * s->columns + x;
      fv_store(at, fv_load(at) * factor);
    }
  }
}

static void store_probabilities(const struct problem *s, const float *from, float *to,
                                const struct strip *at, int64_t y) {
  for (int n = 0; n < s->slots; n++)
    memcpy(probability_row(s, to, at, n, y), from + n * s->columns, s->width * sizeof(float));
}

static void mix_row(const struct problem *s, const float *p, const float *const *far,
                    struct packed w, int64_t head, int chunks, float *out,
                    const struct ahead ahead[2]) {
  const float *bias = w.bias + head * bias_size(s, chunks);
  if (three_by_three(s)) mix_body(s, p, far, w.weight, bias, chunks, out, ahead, 3, 3);
  else
    mix_body(s, p, far, w.weight, bias, chunks, out, ahead, s->kernel_height, s->kernel_width);
}

/* out = slide attention of q, k, v. common.probabilities may be null. Returns 1 without memory. */
FV_EXPORT int FV(slide_forward)(const struct forward *call) {
  const struct common *c = &call->common;
  const struct problem problem = describe(c), *s = &problem;
  if (s->rows == 0) return 0;
  const struct map q = map_of(c->q, c->strides[0], s->storage, c->depth);
  const struct map k = map_of(c->k, c->strides[1], s->storage, c->depth);
  const struct map v = map_of(c->v, c->strides[2], s->storage, c->value_depth);
  const struct map out = contiguous_map(s, call->out, c->value_depth);
  const int64_t key_packed = packed_size(s, k.chunks), value_packed = packed_size(s, v.chunks);
  const int64_t key_line = line_size(s->pitch, k.chunks), value_line = line_size(s->pitch, v.chunks);
  const int64_t query_line = line_size(s->columns, q.chunks);
  const int64_t out_line = line_size(s->columns, v.chunks);
  const int64_t sums_size = GROUP * L * L, scores_size = s->groups * GROUP * s->columns;
  const int64_t scratch = s->kernel_height * (key_line + value_line) + query_line + out_line +
                          sums_size + scores_size + addresses_size(s);
  float *memory = fv_alloc(key_packed + value_packed + s->threads * scratch);
  if (!memory) return 1;
  expect_writes(s, &out);
  const struct packed key_w = packed_at(s, memory, k.chunks);
  const struct packed value_w = packed_at(s, memory + key_packed, v.chunks);
  pack(s, c->key_weight, c->key_bias, c->key_bias_stride, k.depth, true, key_w);
  pack(s, c->value_weight, c->value_bias, c->value_bias_stride, v.depth, true, value_w);

#pragma omp parallel num_threads(s->threads)
  {
    float *near = memory + key_packed + value_packed + fv_thread() * scratch;
    memset(near, 0, scratch * sizeof(float));
    float *mixed = near + query_line, *sums = mixed + out_line, *scores = sums + sums_size;
    const struct ring keys = {scores + scores_size, key_line};
    const struct ring values = {keys.lines + s->kernel_height * key_line, value_line};
    float **far = (float **)(values.lines + s->kernel_height * value_line);
    const fv_range rows = fv_split(s->rows, fv_threads(), fv_thread());
    for (int64_t row = rows.begin; row < rows.end;) {
      const struct strip at = strip_at(s, row, rows.end);
      start_ring(s, &keys, &k, &at, at.first);
      start_ring(s, &values, &v, &at, at.first);
      for (int64_t y = at.first; y < at.last; y++) {
        const int64_t newest = y - s->top + s->kernel_height - 1;
        load_line(s, &q, &at, y, s->scale, s->columns, near);
        fill_ring(s, &keys, &k, &at, newest);
        fill_ring(s, &values, &v, &at, newest);
        ring_lines(s, &keys, y, far);
        const struct ahead for_scores[] = {ahead_of(s, &q, &at, y, 1),
                                           ahead_of(s, &k, &at, newest, 1)};
        const struct ahead for_out[] = {ahead_of(s, &out, &at, y, 0),
                                        ahead_of(s, &v, &at, newest, 1)};
        score_row(s, near, (const float *const *)far, key_w, at.head, k.chunks, sums, scores,
                  for_scores);
        softmax_row(s, scores);
        if (c->probabilities) store_probabilities(s, scores, c->probabilities, &at, y);
        if (s->drops) drop_row(s, &at, y, scores, scores);
        ring_lines(s, &values, y, far);
        mix_row(s, scores, (const float *const *)far, value_w, at.head, v.chunks, mixed,
                for_out);
        store_line(s, mixed, s->columns, 1.0f, &out, &at, y);
      }
      row += at.last - at.first;
    }
  }
  fv_free(memory);
  return 0;
}
