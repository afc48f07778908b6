/* Window attention: every query sees the cells of its own part of the map, and no others.
 *
 * Queries stand side by side in vector lanes, so that the softmax runs down a column of logits
 * [key][lane] and needs no sum across lanes. Keys and values are read where they lie, a number at a
 * time for all lanes; only queries are transposed. A part is all that a thread holds at once, and
 * every cell lies in one part, so no two threads write the same gradient.
 */
#include "dropout.h"
#include "storage.h"

#define L FV_LANES
#define BLOCK (2 * L) /* queries that are attended together */
#if defined(__AVX512VL__)
#define TAPS 8 /* keys, or channels, in registers at once: two vectors each, of 32 registers */
#else
#define TAPS 4 /* of 16 registers */
#endif

typedef struct {
  int64_t batch, height, width, heads, dim, value_dim;
  int64_t part_h, part_w;   /* cells of a part */
  int64_t parts_h, parts_w; /* parts of the padded map */
  int64_t shift_h, shift_w, spread;
  int64_t storage; /* of q, k, v, out and the gradients, as in storage.h */
  int64_t q, k, v;
  int64_t q_stride[4], k_stride[4], v_stride[4]; /* of B, H, W, head; channels lie side by side */
  int64_t bias;                                  /* [head][key][query]; or none */
  int64_t threads, seed_low, seed_high, threshold;
  double scale, keep_scale;
  int64_t out; /* (B, H, W, head, channel), contiguous; so are the gradients */
  int64_t grad_out, grad_stride[4];
  int64_t dq, dk, dv;
  int64_t d_bias; /* like bias; or none */
} fv_window;

/* The real cells of one part: where they lie, which places of the part they hold. */
typedef struct {
  int count, mixed; /* mixed: cells that the shift brought together from two ends of the map */
  int *row, *column, *place, *region;
} fv_cells;

/* What one thread works in. */
typedef struct {
  fv_cells cells;
  const float **keys, **values; /* the row of each cell */
  float *key_rows, *value_rows; /* rows that had to be converted */
  float *q, *grad;              /* a block of queries and of output gradients, [channel][lane] */
  float *lanes;                 /* the same before or after transposing, [lane][channel] */
  float *logits, *slopes;       /* [key][lane of a block], or of all blocks in backward */
  float *q_rows, *grad_rows;    /* [query][channel], padded to whole vectors */
  float *d_bias;
} fv_desk;

static ptrdiff_t up(ptrdiff_t n, ptrdiff_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

FV_INLINE const char *row_of(const fv_window *a, int64_t base, const int64_t *stride, int64_t b,
                             int64_t y, int64_t x, int64_t h) {
  const int64_t place = b * stride[0] + y * stride[1] + x * stride[2] + h * stride[3];
  return (const char *)(intptr_t)base + place * fv_bytes((int)a->storage);
}

FV_INLINE void read_as(const int storage, const char *from, float *to, int dim, float factor) {
  const int size = fv_bytes(storage);
  int d = 0;
  for (; d + L <= dim; d += L) fv_store(to + d, fv_read(from + d * size, storage) * factor);
  for (; d < dim; ++d) to[d] = fv_read_one(from + d * size, storage) * factor;
}

static void read_row(int64_t storage, const char *from, float *to, int dim, float factor) {
  if (storage == FV_FLOAT32)
    read_as(FV_FLOAT32, from, to, dim, factor);
  else if (storage == FV_BFLOAT16)
    read_as(FV_BFLOAT16, from, to, dim, factor);
  else
    read_as(FV_FLOAT16, from, to, dim, factor);
}

FV_INLINE void write_as(const int storage, const float *from, char *to, int dim) {
  const int size = fv_bytes(storage);
  int d = 0;
  for (; d + L <= dim; d += L) fv_write(to + d * size, fv_load(from + d), storage);
  for (; d < dim; ++d) fv_write_one(to + d * size, from[d], storage);
}

static void write_row(int64_t storage, const float *from, char *to, int dim) {
  if (storage == FV_FLOAT32)
    write_as(FV_FLOAT32, from, to, dim);
  else if (storage == FV_BFLOAT16)
    write_as(FV_BFLOAT16, from, to, dim);
  else
    write_as(FV_FLOAT16, from, to, dim);
}

/* Where the index-th cell of part `part` lies along an axis; *wrapped: it came round the end. */
FV_INLINE int64_t along(int64_t part, int64_t index, int64_t cells, int64_t parts, int64_t shift,
                        int64_t spread, int *wrapped) {
  const int64_t at = (spread ? part + index * parts : part * cells + index) + shift;
  *wrapped = at >= cells * parts;
  return *wrapped ? at - cells * parts : at;
}

static void find_cells(const fv_window *a, int64_t part, fv_cells *c) {
  const int64_t down = part / a->parts_w, across = part % a->parts_w;
  c->count = c->mixed = 0;
  for (int64_t i = 0; i < a->part_h; ++i) {
    int below, beside;
    const int64_t y = along(down, i, a->part_h, a->parts_h, a->shift_h, a->spread, &below);
    if (y >= a->height) continue;
    for (int64_t j = 0; j < a->part_w; ++j) {
      const int64_t x = along(across, j, a->part_w, a->parts_w, a->shift_w, a->spread, &beside);
      if (x >= a->width) continue;
      c->row[c->count] = (int)y;
      c->column[c->count] = (int)x;
      c->place[c->count] = (int)(i * a->part_w + j);
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

/* Rows of the cells from `first` on to [channel][lane of a block], times factor. */
static void gather(const fv_window *a, const fv_cells *c, int64_t base, const int64_t *stride,
                   int64_t b, int64_t h, int first, int lanes, int dim, float factor, float *to) {
  for (int i = 0; i < lanes; i += L) {
    const char *from[L];
    for (int l = 0; l < L; ++l) {
      const int cell = lane_cell(c, first, i + l);
      from[l] = row_of(a, base, stride, b, c->row[cell], c->column[cell], h);
    }
    fv_gather((int)a->storage, from, to + i, BLOCK, dim, factor);
  }
}

FV_INLINE char *own_row(const fv_window *a, int64_t base, const fv_cells *c, int64_t b, int64_t h,
                        int cell, int dim) {
  const int64_t place = ((b * a->height + c->row[cell]) * a->width + c->column[cell]) * a->heads + h;
  return (char *)(intptr_t)base + place * dim * fv_bytes((int)a->storage);
}

/* The reverse of gather, into a contiguous map. */
static void scatter(const fv_window *a, const fv_cells *c, int64_t base, int64_t b, int64_t h,
                    int first, int lanes, int dim, const float *from, float *between) {
  fv_transpose(from, BLOCK, between, dim, dim, lanes > L ? BLOCK : L, 1.f);
  for (int i = 0; i < lanes; ++i)
    write_row(a->storage, between + (ptrdiff_t)i * dim, own_row(a, base, c, b, h, first + i, dim),
              dim);
}

/* to[key][lane] = sum over channels of q[channel][lane] * row of the key, for `taps` keys. */
FV_INLINE void dot_keys(const float *q, const float *const *rows, int dim, int vectors, int taps,
                        float *to, ptrdiff_t to_row) {
  fv_f sum[TAPS][2];
  for (int j = 0; j < taps; ++j) sum[j][0] = sum[j][1] = (fv_f){0};
  for (int d = 0; d < dim; ++d)
    for (int j = 0; j < taps; ++j)
      for (int i = 0; i < vectors; ++i)
        sum[j][i] += fv_load(q + (ptrdiff_t)d * BLOCK + i * L) * rows[j][d];
  for (int j = 0; j < taps; ++j)
    for (int i = 0; i < vectors; ++i) fv_store(to + j * to_row + i * L, sum[j][i]);
}

FV_INLINE void dot_with(const float *q, const float *const *rows, int count, int dim, int vectors,
                        const float *ahead, ptrdiff_t ahead_row, float *to, ptrdiff_t to_row) {
  int t = 0;
  for (; t + TAPS <= count; t += TAPS) {
    for (int j = 0; ahead && j < TAPS; ++j) {
      fv_prefetch(ahead + (t + j) * ahead_row);
      fv_prefetch(ahead + (t + j) * ahead_row + BLOCK - 1);
    }
    dot_keys(q, rows + t, dim, vectors, TAPS, to + t * to_row, to_row);
  }
  for (; t < count; ++t) dot_keys(q, rows + t, dim, vectors, 1, to + t * to_row, to_row);
}

/* dot_keys of all keys; row t of what the block needs next, `ahead_row` floats apart, is prefetched
 * beside key t, if `ahead` is not NULL.
 */
static void dot_all(const float *q, const float *const *rows, int count, int dim, int lanes,
                    const float *ahead, ptrdiff_t ahead_row, float *to, ptrdiff_t to_row) {
  if (lanes > L)
    dot_with(q, rows, count, dim, 2, ahead, ahead_row, to, to_row);
  else
    dot_with(q, rows, count, dim, 1, ahead, ahead_row, to, to_row);
}

/* to[channel][lane] = sum over keys of weights[key][lane] * row of the key, times factor[lane]. */
FV_INLINE void mix_channels(const float *weights, ptrdiff_t weights_row, const float *const *rows,
                            int count, int channel, int vectors, int taps, const fv_f *factor,
                            float *to) {
  fv_f sum[TAPS][2];
  for (int j = 0; j < taps; ++j) sum[j][0] = sum[j][1] = (fv_f){0};
  for (int t = 0; t < count; ++t) {
    const float *row = rows[t] + channel;
    for (int j = 0; j < taps; ++j)
      for (int i = 0; i < vectors; ++i)
        sum[j][i] += fv_load(weights + t * weights_row + i * L) * row[j];
  }
  for (int j = 0; j < taps; ++j)
    for (int i = 0; i < vectors; ++i)
      fv_store(to + (ptrdiff_t)(channel + j) * BLOCK + i * L, sum[j][i] * factor[i]);
}

FV_INLINE void mix_with(const float *weights, ptrdiff_t weights_row, const float *const *rows,
                        int count, int dim, int vectors, const fv_f *factor, float *to) {
  int d = 0;
  for (; d + TAPS <= dim; d += TAPS)
    mix_channels(weights, weights_row, rows, count, d, vectors, TAPS, factor, to);
  for (; d < dim; ++d)
    mix_channels(weights, weights_row, rows, count, d, vectors, 1, factor, to);
}

static void mix_all(const float *weights, ptrdiff_t weights_row, const float *const *rows,
                    int count, int dim, int lanes, const fv_f *factor, float *to) {
  if (lanes > L)
    mix_with(weights, weights_row, rows, count, dim, 2, factor, to);
  else
    mix_with(weights, weights_row, rows, count, dim, 1, factor, to);
}

/* to[key][channel] = sum over queries of weights[key][query] * row of the query, `taps` keys. */
FV_INLINE void collect_rows(const float *weights, ptrdiff_t weights_row, const float *rows,
                            ptrdiff_t row, int count, int vectors, int taps, float *to,
                            ptrdiff_t to_row) {
  fv_f sum[TAPS][2];
  for (int j = 0; j < taps; ++j) sum[j][0] = sum[j][1] = (fv_f){0};
  for (int t = 0; t < count; ++t)
    for (int j = 0; j < taps; ++j)
      for (int i = 0; i < vectors; ++i)
        sum[j][i] += fv_load(rows + t * row + i * L) * weights[j * weights_row + t];
  for (int j = 0; j < taps; ++j)
    for (int i = 0; i < vectors; ++i) fv_store(to + j * to_row + i * L, sum[j][i]);
}

FV_INLINE void collect_columns(const float *weights, ptrdiff_t weights_row, const float *rows,
                               ptrdiff_t row, int count, int taps, float *to) {
  ptrdiff_t d = 0;
  for (; d + 2 * L <= row; d += 2 * L)
    collect_rows(weights, weights_row, rows + d, row, count, 2, taps, to + d, row);
  if (d < row) collect_rows(weights, weights_row, rows + d, row, count, 1, taps, to + d, row);
}

/* The gradient of every key, or value, of a part, from the rows of its queries. */
static void collect(const fv_window *a, const fv_cells *c, int64_t base, int64_t b, int64_t h,
                    const float *weights, ptrdiff_t weights_row, const float *rows, ptrdiff_t row,
                    int dim, float *between) {
  for (int t = 0; t < c->count; t += TAPS) {
    const int taps = c->count - t < TAPS ? c->count - t : TAPS;
    const float *from = weights + t * weights_row;
    if (taps == TAPS)
      collect_columns(from, weights_row, rows, row, c->count, TAPS, between);
    else
      for (int j = 0; j < taps; ++j)
        collect_columns(from + j * weights_row, weights_row, rows, row, c->count, 1,
                        between + j * row);
    for (int j = 0; j < taps; ++j)
      write_row(a->storage, between + j * row, own_row(a, base, c, b, h, t + j, dim), dim);
  }
}

/* ---- logits and weights of one block of queries ---------------------------------------- */

static void add_bias(const fv_window *a, const fv_cells *c, int64_t h, int first, int lanes,
                     float *logits, ptrdiff_t row) {
  const ptrdiff_t cells = a->part_h * a->part_w;
  const float *bias = (const float *)(intptr_t)a->bias + h * cells * cells;
  const float *end = (const float *)(intptr_t)a->bias + a->heads * cells * cells;
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
static void part_regions(const fv_cells *c, int first, int lanes, float *logits, ptrdiff_t row) {
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
static void soften(float *logits, ptrdiff_t row, int count, int lanes, fv_f *inverse) {
  for (int i = 0; i * L < lanes; ++i) {
    fv_f top;
    const fv_f sum = fv_soften(logits + i * L, row, count, &top);
    inverse[i] = 1.f / fv_select(sum == 0.f, fv_set(1.f), sum); /* 0: a bias of -inf for all */
  }
}

static void weights_of_block(const fv_window *a, fv_desk *w, int64_t b, int64_t h, int first,
                             int lanes, float *logits, ptrdiff_t row, fv_f *inverse) {
  const fv_cells *c = &w->cells;
  gather(a, c, a->q, a->q_stride, b, h, first, lanes, (int)a->dim, (float)a->scale * FV_LOG2E,
         w->q);
  const ptrdiff_t cells = a->part_h * a->part_w;
  const float *bias = a->bias ? (const float *)(intptr_t)a->bias + h * cells * cells + first : NULL;
  dot_all(w->q, w->keys, c->count, (int)a->dim, lanes, bias, cells, logits, row);
  if (a->bias) add_bias(a, c, h, first, lanes, logits, row);
  if (c->mixed) part_regions(c, first, lanes, logits, row);
  soften(logits, row, c->count, lanes, inverse);
}

/* What the dropout hash takes of a block's queries: their numbers in (B, H, W, head). */
static fv_u dropout_words(const fv_window *a, const fv_cells *c, const fv_dropout *d, int64_t b,
                          int64_t h, int first) {
  fv_u number;
  for (int l = 0; l < L; ++l) {
    const int cell = lane_cell(c, first, l);
    const int64_t y = c->row[cell], x = c->column[cell];
    number[l] = (uint32_t)(((b * a->height + y) * a->width + x) * a->heads + h);
  }
  return fv_dropout_query(d, number);
}

/* Scale what belongs to a weight that is kept, zero the others. */
static void drop(const fv_window *a, const fv_cells *c, int64_t b, int64_t h, int first, int lanes,
                 float *weights, ptrdiff_t row) {
  const fv_dropout d = {(uint32_t)a->seed_low, (uint32_t)a->seed_high, (uint32_t)a->threshold,
                        (float)a->keep_scale};
  for (int i = 0; i < lanes; i += L) {
    const fv_u words = dropout_words(a, c, &d, b, h, first + i);
    for (int t = 0; t < c->count; ++t) {
      const fv_i kept = fv_dropout_kept(&d, words, (fv_u){0} + (uint32_t)c->place[t]);
      float *at = weights + t * row + i;
      fv_store(at, fv_select(kept, fv_load(at) * d.scale, (fv_f){0}));
    }
  }
}

/* Keys and values as rows of float32: where they lie, or converted. */
static void point_at_rows(const fv_window *a, fv_desk *w, int64_t b, int64_t h) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  for (int t = 0; t < w->cells.count; ++t) {
    const int64_t y = w->cells.row[t], x = w->cells.column[t];
    const char *key = row_of(a, a->k, a->k_stride, b, y, x, h);
    const char *value = row_of(a, a->v, a->v_stride, b, y, x, h);
    if (a->storage == FV_FLOAT32) {
      w->keys[t] = (const float *)(const void *)key;
      w->values[t] = (const float *)(const void *)value;
    } else {
      float *key_row = w->key_rows + (ptrdiff_t)t * dim;
      float *value_row = w->value_rows + (ptrdiff_t)t * value_dim;
      read_row(a->storage, key, key_row, dim, 1.f);
      read_row(a->storage, value, value_row, value_dim, 1.f);
      w->keys[t] = key_row;
      w->values[t] = value_row;
    }
  }
}

static void part_forward(const fv_window *a, fv_desk *w, int64_t b, int64_t h) {
  const fv_cells *c = &w->cells;
  const int value_dim = (int)a->value_dim;
  point_at_rows(a, w, b, h);
  for (int first = 0; first < c->count; first += BLOCK) {
    const int lanes = c->count - first < BLOCK ? c->count - first : BLOCK;
    fv_f inverse[2];
    weights_of_block(a, w, b, h, first, lanes, w->logits, BLOCK, inverse);
    if (a->threshold) drop(a, c, b, h, first, lanes, w->logits, BLOCK);
    mix_all(w->logits, BLOCK, w->values, c->count, value_dim, lanes, inverse, w->grad);
    scatter(a, c, a->out, b, h, first, lanes, value_dim, w->grad, w->lanes);
  }
}

/* ---- backward -------------------------------------------------------------------------- */

/* Rows of all cells, [cell][channel padded with zeros to whole vectors], times factor. */
static void gather_rows(const fv_window *a, const fv_cells *c, int64_t base, const int64_t *stride,
                        int64_t b, int64_t h, int dim, ptrdiff_t row, float factor, float *to) {
  for (int t = 0; t < c->count; ++t) {
    const char *from = row_of(a, base, stride, b, c->row[t], c->column[t], h);
    read_row(a->storage, from, to + t * row, dim, factor);
    for (ptrdiff_t d = dim; d < row; ++d) to[t * row + d] = 0.f;
  }
}

/* With weights p and the gradients g of what p multiplies: slopes = p (g - sum of p g over keys). */
static void slopes_of_logits(const fv_cells *c, int lanes, const float *weights, float *slopes,
                             ptrdiff_t row) {
  for (int i = 0; i < lanes; i += L) {
    fv_f mean = {0};
    for (int t = 0; t < c->count; ++t)
      mean += fv_load(weights + t * row + i) * fv_load(slopes + t * row + i);
    for (int t = 0; t < c->count; ++t) {
      float *at = slopes + t * row + i;
      fv_store(at, fv_load(weights + t * row + i) * (fv_load(at) - mean));
    }
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

static void add_to_bias(const fv_window *a, const fv_cells *c, int64_t h, const float *slopes,
                        ptrdiff_t row, float *d_bias) {
  const ptrdiff_t cells = a->part_h * a->part_w;
  float *to = d_bias + h * cells * cells;
  for (int t = 0; t < c->count; ++t)
    for (int q = 0; q < c->count; ++q)
      to[c->place[t] * cells + c->place[q]] += slopes[t * row + q];
}

static void part_backward(const fv_window *a, fv_desk *w, int64_t b, int64_t h) {
  const fv_cells *c = &w->cells;
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const ptrdiff_t row = up(a->part_h * a->part_w, BLOCK), wide = up(dim, L);
  const ptrdiff_t value_wide = up(value_dim, L);
  const float scale = (float)a->scale;
  const fv_f factor[2] = {fv_set(scale), fv_set(scale)};
  point_at_rows(a, w, b, h);
  gather_rows(a, c, a->q, a->q_stride, b, h, dim, wide, scale, w->q_rows);
  gather_rows(a, c, a->grad_out, a->grad_stride, b, h, value_dim, value_wide, 1.f, w->grad_rows);
  for (int first = 0; first < c->count; first += BLOCK) {
    const int lanes = c->count - first < BLOCK ? c->count - first : BLOCK;
    float *weights = w->logits + first, *slopes = w->slopes + first;
    fv_f inverse[2];
    weights_of_block(a, w, b, h, first, lanes, weights, row, inverse);
    normalise(c, lanes, inverse, weights, row);
    gather(a, c, a->grad_out, a->grad_stride, b, h, first, lanes, value_dim, 1.f, w->grad);
    dot_all(w->grad, w->values, c->count, value_dim, lanes, NULL, 0, slopes, row);
    if (a->threshold) drop(a, c, b, h, first, lanes, slopes, row);
    slopes_of_logits(c, lanes, weights, slopes, row);
    if (a->threshold) drop(a, c, b, h, first, lanes, weights, row);
    mix_all(slopes, row, w->keys, c->count, dim, lanes, factor, w->q);
    scatter(a, c, a->dq, b, h, first, lanes, dim, w->q, w->lanes);
  }
  collect(a, c, a->dv, b, h, w->logits, row, w->grad_rows, value_wide, value_dim, w->lanes);
  collect(a, c, a->dk, b, h, w->slopes, row, w->q_rows, wide, dim, w->lanes);
  if (w->d_bias) add_to_bias(a, c, h, w->slopes, row, w->d_bias);
}

/* ---- threads --------------------------------------------------------------------------- */

static float *take(float **free, ptrdiff_t floats) {
  float *taken = *free;
  if (taken) *free += up(floats, 16);
  return taken;
}

/* Lay a desk out from `memory`; with none, only count. Returns the floats it needs. */
static size_t lay_out(fv_desk *w, const fv_window *a, int backward, float *memory) {
  const ptrdiff_t cells = a->part_h * a->part_w, columns = backward ? up(cells, BLOCK) : BLOCK;
  const ptrdiff_t most = a->dim > a->value_dim ? a->dim : a->value_dim, wide = up(most, L);
  const ptrdiff_t integers = up(cells, 16), pointers = up(2 * cells, 16);
  const ptrdiff_t block = up(BLOCK * most, 16), between = up(BLOCK * wide, 16);
  const ptrdiff_t logits = up(cells * columns, 16), rows = backward ? up(cells * wide, 16) : 0;
  const ptrdiff_t converted = a->storage == FV_FLOAT32 ? 0 : up(cells * most, 16);
  if (memory) {
    w->cells.row = (int *)take(&memory, integers);
    w->cells.column = (int *)take(&memory, integers);
    w->cells.place = (int *)take(&memory, integers);
    w->cells.region = (int *)take(&memory, integers);
    w->keys = (const float **)(void *)take(&memory, pointers);
    w->values = (const float **)(void *)take(&memory, pointers);
    w->q = take(&memory, block);
    w->grad = take(&memory, block);
    w->lanes = take(&memory, between);
    w->logits = take(&memory, logits);
    w->slopes = take(&memory, backward ? logits : 0);
    w->q_rows = take(&memory, rows);
    w->grad_rows = take(&memory, rows);
    w->key_rows = take(&memory, converted);
    w->value_rows = take(&memory, converted);
  }
  return (size_t)(4 * integers + 2 * pointers + 2 * block + between + (backward ? 2 : 1) * logits +
                  2 * rows + 2 * converted);
}

/* Every part and head, shared among the threads; a thread's first bias gradient is at d_bias. */
static int all_parts(const fv_window *a, int backward, float *d_bias, ptrdiff_t bias_floats) {
  const int64_t parts = a->parts_h * a->parts_w, total = a->batch * parts * a->heads;
  int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(| : failed)
  {
    fv_desk w = {0};
    float *memory = fv_alloc(lay_out(&w, a, backward, NULL));
    if (memory) {
      const fv_range mine = fv_split(total, fv_threads(), fv_thread());
      int64_t known = -1;
      lay_out(&w, a, backward, memory);
      if (d_bias) w.d_bias = d_bias + fv_thread() * bias_floats;
      for (int64_t item = mine.begin; item < mine.end; ++item) {
        const int64_t h = item % a->heads, part = item / a->heads % parts;
        if (part != known) find_cells(a, known = part, &w.cells);
        if (!w.cells.count) continue;
        if (backward)
          part_backward(a, &w, item / a->heads / parts, h);
        else
          part_forward(a, &w, item / a->heads / parts, h);
      }
      fv_free(memory);
    } else {
      failed = 1;
    }
  }
  return failed;
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(window_forward)(const fv_window *a) { return all_parts(a, 0, NULL, 0); }

FV_EXPORT int FV(window_backward)(const fv_window *a) {
  if (!a->d_bias) return all_parts(a, 1, NULL, 0);
  const ptrdiff_t cells = a->part_h * a->part_w, floats = a->heads * cells * cells;
  float *each = fv_alloc((size_t)(floats * a->threads));
  if (!each) return 1;
  memset(each, 0, (size_t)(floats * a->threads) * sizeof(float));
  const int failed = all_parts(a, 1, each, floats);
  float *sum = (float *)(intptr_t)a->d_bias;
  for (ptrdiff_t i = 0; i < floats; ++i) {
    sum[i] = 0.f;
    for (int64_t thread = 0; thread < a->threads; ++thread) sum[i] += each[thread * floats + i];
  }
  fv_free(each);
  return failed;
}
