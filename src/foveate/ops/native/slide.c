/* Slide attention, float32, forward and backward.
 *
 * A slot's key is a depthwise convolution of the key map, so that
 *     score[n] = sum over taps j and channels d of (q[d] k[d](p + j)) w[n][j][d]  +  q . b[n]
 * is a small dense product whose weights all positions share, and the output one more. The k*k
 * shifted maps are never stored.
 *
 * A block of R rows and C columns of one image and head is packed channel by channel into planes
 * of pitch P = C + kw - 1, keys and values with their halo, so that FV_LANES consecutive plane
 * positions are one vector of queries and a tap is a constant offset. Queries in the pitch columns
 * beyond C are zero and never leave the block.
 *
 * Slots are taken GROUP at a time (a group's sums stay in registers); weights are packed
 * [head][group][D][taps + 1][GROUP], the bias being one more tap.
 *
 * Results depend on the thread count only in the order in which the threads' partial sums of the
 * weight gradients are added; for one count they are always the same.
 */
#if defined(__AVX512F__)
#define FV_LANES 16 /* few loads a multiply-add here: the wide vectors win */
#endif
#include "simd.h"
#include "dropout.h"

#include <stdbool.h>

#define GROUP 9
/* Taps whose weight gradients stay in registers at once. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TAP_BLOCK 3
#else
#define TAP_BLOCK 1
#endif
/* Hold a vector in its register where the compiler would load it again for each use. */
#if defined(__AVX512F__)
#define KEEP(x) __asm__("" : "+v"(x))
#else
#define KEEP(x) ((void)0)
#endif
/* What the planes of one block may take: they are to stay in the second cache. */
#define FORWARD_BYTES (320 << 10)
#define BACKWARD_BYTES (512 << 10)
#define MAX_COLUMNS 128

/* One (B, H, W, heads, D) tensor, strides in elements. */
struct map {
  float *data;
  int64_t batch, row, column, head, channel;
};

struct problem {
  int64_t batch, height, width, heads;
  int depth, value_depth, deeper, kernel_height, kernel_width, taps, slots, groups;
  float scale;
  bool drops;
  fv_dropout dropout;
  /* Blocks: rows and columns of each, how many, plane sizes in floats. */
  int64_t rows, columns, row_blocks, column_blocks;
  int64_t pitch, plane, halo_plane;
  int64_t *offset; /* of every tap within a plane */
  int64_t *scattered; /* of every tap within the planes of scatter */
};

/* One block: where it lies and what is left of it at the map's edge. */
struct block {
  int64_t image, head, top, left, rows, columns, queries;
};

/* scores[slot] = sum over channels and taps of (a * x shifted by the tap) * weight, + a . bias. */
FV_INLINE void scores_body(const struct problem *s, int64_t queries, const float *a, const float *x,
                        const float *weights, int depth, float *scores, int taps) {
  for (int group = 0; group < s->groups; group++) {
    const float *w_group = weights + (int64_t)group * depth * (taps + 1) * GROUP;
    for (int64_t i = 0; i < queries; i += FV_LANES) {
      fv_f sum[GROUP] = {{0}};
      for (int d = 0; d < depth; d++) {
        const float *w = w_group + (int64_t)d * (taps + 1) * GROUP;
        const float *plane = x + d * s->halo_plane + i;
        fv_f query = fv_load(a + d * s->plane + i);
        for (int j = 0; j < taps; j++) {
          fv_f product = query * fv_load(plane + s->offset[j]);
          for (int n = 0; n < GROUP; n++) sum[n] += product * w[j * GROUP + n];
        }
        for (int n = 0; n < GROUP; n++) sum[n] += query * w[taps * GROUP + n];
      }
      for (int n = 0; n < GROUP; n++)
        if (group * GROUP + n < s->slots) fv_store(scores + (group * GROUP + n) * s->plane + i, sum[n]);
    }
  }
}

/* With `gather`, y = sum over slots of p[slot] * (sum over taps of weight * x shifted + bias); with
 * `scatter`, dx shifted += (sum over slots of p[slot] * weight) * a, where every tap column has
 * planes of its own: added to one, neighbouring taps would wait for each other's stores. */
FV_INLINE void mix_body(const struct problem *s, int64_t queries, const float *p, const float *x,
                     const float *weights, int depth, float *y, const float *a, float *dx, int taps,
                     bool gather, bool scatter) {
  for (int group = 0; group < s->groups; group++) {
    const float *w_group = weights + (int64_t)group * depth * (taps + 1) * GROUP;
    for (int64_t i = 0; i < queries; i += FV_LANES) {
      fv_f slot[GROUP] = {{0}};
      for (int n = 0; n < GROUP; n++)
        if (group * GROUP + n < s->slots) slot[n] = fv_load(p + (group * GROUP + n) * s->plane + i);
      for (int d = 0; d < depth; d++) {
        const float *w = w_group + (int64_t)d * (taps + 1) * GROUP;
        const int64_t at = d * s->halo_plane + i;
        fv_f sum = {0}, query = {0};
        if (gather) {
          for (int n = 0; n < GROUP; n++) sum += slot[n] * w[taps * GROUP + n];
          if (group) sum += fv_load(y + d * s->plane + i);
        }
        if (scatter) query = fv_load(a + d * s->plane + i);
        for (int j = 0; j < taps; j++) {
          fv_f blend = slot[0] * w[j * GROUP];
          for (int n = 1; n < GROUP; n++) blend += slot[n] * w[j * GROUP + n];
          if (gather) sum += blend * fv_load(x + at + s->offset[j]);
          if (scatter) {
            float *to = dx + at + s->scattered[j];
            fv_store(to, fv_load(to) + blend * query);
          }
        }
        if (gather) fv_store(y + d * s->plane + i, sum);
      }
    }
  }
}

typedef float four __attribute__((vector_size(16)));

/* Sums of four lanes each, in order. */
FV_INLINE four sum_to_four(fv_f x) {
#if FV_LANES == 16
  typedef float eight __attribute__((vector_size(32)));
  eight half = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) +
         __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif FV_LANES == 8
  return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
  return x;
#endif
}

/* to[n] += sum of the lanes of x[n]. */
FV_INLINE void add_sums(const fv_f *x, int count, float *to) {
  int n = 0;
  for (; n + 4 <= count; n += 4) {
    four a = sum_to_four(x[n]), b = sum_to_four(x[n + 1]);
    four c = sum_to_four(x[n + 2]), d = sum_to_four(x[n + 3]);
    four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    four sum = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
               __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    for (int i = 0; i < 4; i++) to[n + i] += sum[i];
  }
  for (; n < count; n++) to[n] += fv_sum(x[n]);
}

/* d_w[channel][tap][slot] += sum over queries of p[slot] * a * (x shifted by the tap), for `count`
 * taps from `first`; x null stands for the bias, whose shifted map is one everywhere. */
FV_INLINE void weight_taps(const struct problem *s, int64_t queries, const float *p, const float *a,
                        const float *x, int depth, float *d_w, int taps, int first, int count,
                        int slots) {
  for (int d = 0; d < depth; d++) {
    fv_f sum[TAP_BLOCK * GROUP] = {{0}};
    const float *plane = x ? x + d * s->halo_plane : 0;
    for (int64_t i = 0; i < queries; i += FV_LANES) {
      fv_f query = fv_load(a + d * s->plane + i), product[TAP_BLOCK];
      for (int j = 0; j < count; j++)
        product[j] = x ? query * fv_load(plane + i + s->offset[first + j]) : query;
      for (int n = 0; n < slots; n++) {
        fv_f probability = fv_load(p + n * s->plane + i);
        KEEP(probability);
        for (int j = 0; j < count; j++) sum[j * GROUP + n] += probability * product[j];
      }
    }
    float *to = d_w + ((int64_t)d * (taps + 1) + first) * GROUP;
    for (int j = 0; j < count; j++) add_sums(sum + j * GROUP, slots, to + j * GROUP);
  }
}

FV_INLINE void weight_body(const struct problem *s, int64_t queries, const float *p, const float *a,
                        const float *x, int depth, float *d_weights, int taps) {
  for (int group = 0; group < s->groups; group++) {
    float *d_w = d_weights + (int64_t)group * depth * (taps + 1) * GROUP;
    const float *p_group = p + (int64_t)group * GROUP * s->plane;
    const int left = s->slots - group * GROUP;
    if (left >= GROUP) {
      int j = 0;
      for (; j + TAP_BLOCK <= taps; j += TAP_BLOCK)
        weight_taps(s, queries, p_group, a, x, depth, d_w, taps, j, TAP_BLOCK, GROUP);
      for (; j < taps; j++) weight_taps(s, queries, p_group, a, x, depth, d_w, taps, j, 1, GROUP);
      weight_taps(s, queries, p_group, a, 0, depth, d_w, taps, taps, 1, GROUP);
    } else {
      for (int j = 0; j <= taps; j++)
        weight_taps(s, queries, p_group, a, j < taps ? x : 0, depth, d_w, taps, j, 1, left);
    }
  }
}

/* 3x3 gets bodies of its own: with the taps known, the loops over them unroll. */
#define BY_TAPS(body, ...)                        \
  do {                                            \
    if (s->taps == 9) body(__VA_ARGS__, 9);       \
    else body(__VA_ARGS__, s->taps);              \
  } while (0)
#define MIX(gather, scatter)                                                              \
  do {                                                                                    \
    if (s->taps == 9)                                                                     \
      mix_body(s, queries, p, x, w, depth, y, a, dx, 9, gather, scatter);                 \
    else                                                                                  \
      mix_body(s, queries, p, x, w, depth, y, a, dx, s->taps, gather, scatter);           \
  } while (0)

static void score_block(const struct problem *s, int64_t queries, const float *a, const float *x,
                        const float *w, int depth, float *scores) {
  BY_TAPS(scores_body, s, queries, a, x, w, depth, scores);
}

static void mix_block(const struct problem *s, int64_t queries, const float *p, const float *x,
                      const float *w, int depth, float *y) {
  const float *a = 0;
  float *dx = 0;
  MIX(true, false);
}

static void scatter_block(const struct problem *s, int64_t queries, const float *p, const float *w,
                          int depth, const float *a, float *dx) {
  const float *x = 0;
  float *y = 0;
  MIX(false, true);
}

static void mix_scatter_block(const struct problem *s, int64_t queries, const float *p,
                              const float *x, const float *w, int depth, float *y, const float *a,
                              float *dx) {
  MIX(true, true);
}

static void weight_block(const struct problem *s, int64_t queries, const float *p, const float *a,
                         const float *x, int depth, float *d_w) {
  BY_TAPS(weight_body, s, queries, p, a, x, depth, d_w);
}

static void softmax_block(const struct problem *s, int64_t queries, float *scores) {
  for (int64_t i = 0; i < queries; i += FV_LANES) {
    fv_f top = fv_load(scores + i), total = {0};
    for (int n = 1; n < s->slots; n++) top = fv_max(fv_load(scores + n * s->plane + i), top);
    for (int n = 0; n < s->slots; n++) {
      float *at = scores + n * s->plane + i;
      fv_f part = fv_exp(fv_load(at) - top);
      fv_store(at, part);
      total += part;
    }
    fv_f factor = 1.0f / total;
    for (int n = 0; n < s->slots; n++) {
      float *at = scores + n * s->plane + i;
      fv_store(at, fv_load(at) * factor);
    }
  }
}

/* to = from where a weight stays, scaled up; 0 elsewhere. numbers: of the block's queries. */
static void drop_block(const struct problem *s, int64_t queries, const int32_t *numbers,
                       const float *from, float *to) {
  for (int64_t i = 0; i < queries; i += FV_LANES) {
    const fv_u word = fv_dropout_query(&s->dropout, (fv_u)fv_load((const float *)numbers + i));
    for (int n = 0; n < s->slots; n++) {
      const fv_i kept = fv_dropout_kept(&s->dropout, word, (fv_u){0} + (uint32_t)n);
      const fv_f x = fv_load(from + n * s->plane + i) * s->dropout.scale;
      fv_store(to + n * s->plane + i, fv_select(kept, x, (fv_f){0}));
    }
  }
}

/* The gradient of the probabilities becomes that of the scores, in place. */
static void softmax_backward_block(const struct problem *s, int64_t queries, const float *p,
                                   float *gradient) {
  for (int64_t i = 0; i < queries; i += FV_LANES) {
    fv_f mean = {0};
    for (int n = 0; n < s->slots; n++)
      mean += fv_load(p + n * s->plane + i) * fv_load(gradient + n * s->plane + i);
    for (int n = 0; n < s->slots; n++) {
      float *at = gradient + n * s->plane + i;
      fv_store(at, fv_load(p + n * s->plane + i) * (fv_load(at) - mean));
    }
  }
}

/* ---- between maps and planes ---- */

#define STRIP 16 /* columns transposed at once */
#define AHEAD 64 /* columns fetched ahead */

/* Transpose columns of a map's row into planes, times `factor`. */
static void pack_row(const float *from, int64_t column, int64_t channel, int64_t columns, int depth,
                     float factor, float *to, int64_t plane) {
  if (channel != 1) {
    for (int d = 0; d < depth; d++)
      for (int64_t x = 0; x < columns; x++)
        to[d * plane + x] = from[x * column + d * channel] * factor;
    return;
  }
  for (int64_t x = 0; x < columns; x += STRIP) {
    const int count = columns - x < STRIP ? (int)(columns - x) : STRIP;
    const float *f = from + x * column;
    for (int c = AHEAD; c < AHEAD + STRIP; c++) /* so short runs escape the prefetcher */
      for (int d = 0; d < depth; d += 16) __builtin_prefetch(f + c * column + d);
    fv_transpose(f, column, to + x, plane, count, depth, factor);
  }
}

/* The inverse, to contiguous channels. */
static void unpack_row(const float *from, int64_t plane, int64_t columns, int depth, float factor,
                       float *to, int64_t column) {
  for (int64_t x = 0; x < columns; x += STRIP) {
    const int count = columns - x < STRIP ? (int)(columns - x) : STRIP;
    fv_transpose(from + x, plane, to + x * column, column, depth, count, factor);
  }
}

/* The inverse, adding to what is there; strip: STRIP * depth floats. */
static void add_row(const float *from, int64_t plane, int64_t columns, int depth, float *to,
                    int64_t column, float *strip) {
  for (int64_t x = 0; x < columns; x += STRIP) {
    const int count = columns - x < STRIP ? (int)(columns - x) : STRIP;
    for (int c = AHEAD; c < AHEAD + STRIP; c++)
      for (int d = 0; d < depth; d += 16) __builtin_prefetch(to + (x + c) * column + d, 1);
    fv_transpose(from + x, plane, strip, depth, depth, count, 1.0f);
    for (int c = 0; c < count; c++) {
      float *t = to + (x + c) * column;
      for (int d = 0; d < depth; d++) t[d] += strip[c * depth + d];
    }
  }
}

static float *at_row(const struct map *m, const struct block *b, int64_t y, int64_t x) {
  return m->data + b->image * m->batch + b->head * m->head + y * m->row + x * m->column;
}

/* A block's own rows: (depth, plane), zero in the pitch columns and behind the last row. */
static void pack_queries(const struct problem *s, const struct block *b, const struct map *m,
                         int depth, float factor, float *to) {
  for (int d = 0; d < depth; d++) {
    float *t = to + d * s->plane;
    for (int64_t y = 0; y < b->rows; y++)
      for (int64_t x = y * s->pitch + b->columns; x < (y + 1) * s->pitch; x++) t[x] = 0.0f;
    for (int64_t x = b->rows * s->pitch; x < b->queries; x++) t[x] = 0.0f;
  }
  for (int64_t y = 0; y < b->rows; y++)
    pack_row(at_row(m, b, b->top + y, b->left), m->column, m->channel, b->columns, depth, factor,
             to + y * s->pitch, s->plane);
}

static void unpack_queries(const struct problem *s, const struct block *b, const float *from,
                           int depth, float factor, const struct map *m) {
  for (int64_t y = 0; y < b->rows; y++)
    unpack_row(from + y * s->pitch, s->plane, b->columns, depth, factor,
               at_row(m, b, b->top + y, b->left), m->column);
}

/* The part of a block's halo that lies within the map: halo coordinates [y0, y1) x [x0, x1). */
struct inside {
  int64_t y0, y1, x0, x1;
};

static struct inside inside_map(const struct problem *s, const struct block *b) {
  const int64_t top = b->top - s->kernel_height / 2, left = b->left - s->kernel_width / 2;
  const int64_t rows = b->rows + s->kernel_height - 1, columns = b->columns + s->kernel_width - 1;
  struct inside in = {top < 0 ? -top : 0, s->height - top < rows ? s->height - top : rows,
                      left < 0 ? -left : 0, s->width - left < columns ? s->width - left : columns};
  return in;
}

/* Sum scatter's planes of each tap column into those of the first. */
static void sum_scattered(const struct problem *s, int depth, float *dx) {
  for (int d = 0; d < depth; d++)
    for (int column = 1; column < s->kernel_width; column++) {
      float *to = dx + d * s->halo_plane + column;
      const float *from = dx + (column * s->deeper + d) * s->halo_plane;
      for (int64_t i = 0; i < s->halo_plane - column; i++) to[i] += from[i];
    }
}

/* Keys or values with their halo: (depth, halo_plane), zero outside the map. */
static void pack_halo(const struct problem *s, const struct block *b, const struct map *m,
                      int depth, float *to) {
  const struct inside in = inside_map(s, b);
  const int64_t first = in.y0 * s->pitch, last = in.y1 * s->pitch;
  for (int d = 0; d < depth; d++) {
    float *t = to + d * s->halo_plane;
    memset(t, 0, first * sizeof(float));
    memset(t + last, 0, (s->halo_plane - last) * sizeof(float));
    for (int64_t y = in.y0; y < in.y1; y++) {
      for (int64_t x = 0; x < in.x0; x++) t[y * s->pitch + x] = 0.0f;
      for (int64_t x = in.x1; x < s->pitch; x++) t[y * s->pitch + x] = 0.0f;
    }
  }
  for (int64_t y = in.y0; y < in.y1; y++)
    pack_row(at_row(m, b, b->top - s->kernel_height / 2 + y, b->left - s->kernel_width / 2 + in.x0),
             m->column, m->channel, in.x1 - in.x0, depth, 1.0f, to + y * s->pitch + in.x0,
             s->halo_plane);
}

static void add_halo(const struct problem *s, const struct block *b, const float *from, int depth,
                     const struct map *m, float *strip) {
  const struct inside in = inside_map(s, b);
  for (int64_t y = in.y0; y < in.y1; y++)
    add_row(from + y * s->pitch + in.x0, s->halo_plane, in.x1 - in.x0, depth,
            at_row(m, b, b->top - s->kernel_height / 2 + y, b->left - s->kernel_width / 2 + in.x0),
            m->column, strip);
}

/* Probabilities are kept as (B, heads, slots, H, W). */
static float *probability_row(const struct problem *s, const struct block *b, float *probabilities,
                              int slot, int64_t y) {
  return probabilities +
         (((b->image * s->heads + b->head) * s->slots + slot) * s->height + b->top + y) * s->width +
         b->left;
}

/* ---- the problem ---- */

/* What forward and backward have in common; the addresses and strides are in elements. */
struct common {
  int64_t batch, height, width, heads, depth, value_depth, kernel_height, kernel_width;
  float *q, *k, *v;
  int64_t strides[3][5]; /* of q, k, v: batch, row, column, head, channel */
  /* Weights (slots, taps, D), biases (heads, slots, D) of stride 0 where the heads share them. */
  const float *key_weight, *key_bias, *value_weight, *value_bias;
  int64_t key_bias_stride, value_bias_stride;
  float *probabilities; /* (B, heads, slots, H, W), before dropout */
  int64_t threads, seed_low, seed_high, threshold;
  double scale, keep_scale; /* keep_scale 0: no dropout */
};

/* planes: how many of a block are at work at once, of `bytes` together. */
static void describe(struct problem *s, const struct common *c, int planes, int64_t bytes) {
  s->batch = c->batch, s->height = c->height, s->width = c->width, s->heads = c->heads;
  s->depth = (int)c->depth, s->value_depth = (int)c->value_depth;
  s->deeper = s->depth > s->value_depth ? s->depth : s->value_depth;
  s->kernel_height = (int)c->kernel_height, s->kernel_width = (int)c->kernel_width;
  s->taps = s->slots = s->kernel_height * s->kernel_width;
  s->groups = (s->slots + GROUP - 1) / GROUP;
  s->scale = (float)c->scale;
  s->drops = c->keep_scale != 0.0;
  s->dropout = (fv_dropout){(uint32_t)c->seed_low, (uint32_t)c->seed_high, (uint32_t)c->threshold,
                            (float)c->keep_scale};

  s->column_blocks = (s->width + MAX_COLUMNS - 1) / MAX_COLUMNS;
  s->columns = (s->width + s->column_blocks - 1) / s->column_blocks;
  if (s->columns < s->kernel_width) s->columns = s->kernel_width;
  s->column_blocks = (s->width + s->columns - 1) / s->columns;
  s->pitch = s->columns + s->kernel_width - 1;
  const int64_t row_bytes = planes * s->deeper * s->pitch * sizeof(float);
  s->rows = bytes / row_bytes - (s->kernel_height - 1);
  if (s->rows < s->kernel_height) s->rows = s->kernel_height;
  s->row_blocks = (s->height + s->rows - 1) / s->rows;
  s->rows = (s->height + s->row_blocks - 1) / s->row_blocks;
  if (s->rows < s->kernel_height) s->rows = s->kernel_height;
  s->row_blocks = (s->height + s->rows - 1) / s->rows;

  /* Vectors may run FV_LANES - 1 beyond the last query; an odd number of cache lines keeps the
   * planes of one position apart in the cache. */
  s->plane = (s->rows * s->pitch + FV_LANES - 1) / FV_LANES * FV_LANES;
  s->halo_plane = s->plane + (s->kernel_height - 1) * s->pitch + s->kernel_width;
  s->plane = (s->plane + 31) / 32 * 32 + 16;
  s->halo_plane = (s->halo_plane + 31) / 32 * 32 + 16;
}

static struct block block_at(const struct problem *s, int64_t image, int64_t head, int64_t row,
                             int64_t column) {
  struct block b = {image, head, row * s->rows, column * s->columns, 0, 0, 0};
  b.rows = s->height - b.top < s->rows ? s->height - b.top : s->rows;
  b.columns = s->width - b.left < s->columns ? s->width - b.left : s->columns;
  b.queries = (b.rows * s->pitch + FV_LANES - 1) / FV_LANES * FV_LANES;
  return b;
}

static int64_t packed_size(const struct problem *s, int depth) {
  return (int64_t)s->groups * depth * (s->taps + 1) * GROUP;
}

/* weight (slots, taps, D) and bias (heads or 1, slots, D), contiguous, for one head. */
static void pack_weights(const struct problem *s, const float *weight, const float *bias, int depth,
                         float *to) {
  for (int group = 0; group < s->groups; group++)
    for (int d = 0; d < depth; d++)
      for (int j = 0; j <= s->taps; j++)
        for (int n = 0; n < GROUP; n++, to++) {
          const int64_t slot = group * GROUP + n;
          if (slot >= s->slots) *to = 0.0f;
          else *to = j < s->taps ? weight[(slot * s->taps + j) * depth + d] : bias[slot * depth + d];
        }
}

/* Sum the threads' packed gradients (threads, heads, packed) into weight and bias gradients. */
static void unpack_weights(const struct problem *s, const float *partial, int threads, int depth,
                           bool shared_bias, float *weight, float *bias) {
  const int64_t size = packed_size(s, depth), slots = s->slots, taps = s->taps;
  memset(weight, 0, slots * taps * depth * sizeof(float));
  memset(bias, 0, (shared_bias ? 1 : s->heads) * slots * depth * sizeof(float));
  for (int thread = 0; thread < threads; thread++)
    for (int64_t head = 0; head < s->heads; head++) {
      const float *from = partial + (thread * s->heads + head) * size;
      float *head_bias = bias + (shared_bias ? 0 : head) * slots * depth;
      for (int group = 0; group < s->groups; group++)
        for (int d = 0; d < depth; d++)
          for (int64_t j = 0; j <= taps; j++)
            for (int n = 0; n < GROUP; n++, from++) {
              const int64_t slot = group * GROUP + n;
              if (slot >= slots) continue;
              if (j < taps) weight[(slot * taps + j) * depth + d] += *from;
              else head_bias[slot * depth + d] += *from;
            }
    }
}

static struct map map_of(float *data, const int64_t *strides) {
  struct map m = {data, strides[0], strides[1], strides[2], strides[3], strides[4]};
  return m;
}

/* A contiguous (B, H, W, heads, depth) tensor. */
static struct map packed_map(const struct problem *s, float *data, int64_t depth) {
  const int64_t column = s->heads * depth, row = column * s->width;
  struct map m = {data, row * s->height, row, column, depth, 1};
  return m;
}

/* Returns false without memory. */
static bool tap_offsets(struct problem *s) {
  s->offset = malloc(2 * s->taps * sizeof(int64_t));
  if (!s->offset) return false;
  s->scattered = s->offset + s->taps;
  for (int y = 0; y < s->kernel_height; y++)
    for (int x = 0; x < s->kernel_width; x++) {
      s->offset[y * s->kernel_width + x] = y * s->pitch + x;
      s->scattered[y * s->kernel_width + x] = y * s->pitch + x * s->deeper * s->halo_plane;
    }
  return true;
}

/* Every head's packed weights: keys', then values'. */
static void pack_all_weights(const struct problem *s, const struct common *c, float *key,
                             float *value) {
  for (int64_t h = 0; h < s->heads; h++) {
    pack_weights(s, c->key_weight, c->key_bias + h * c->key_bias_stride, s->depth,
                 key + h * packed_size(s, s->depth));
    pack_weights(s, c->value_weight, c->value_bias + h * c->value_bias_stride, s->value_depth,
                 value + h * packed_size(s, s->value_depth));
  }
}

/* Numbers of a block's queries, for dropout. */
static void number_queries(const struct problem *s, const struct block *b, int32_t *numbers) {
  for (int64_t i = 0; i < b->queries; i++) {
    const int64_t y = b->top + i / s->pitch, x = b->left + i % s->pitch;
    numbers[i] = (int32_t)(((b->image * s->height + y) * s->width + x) * s->heads + b->head);
  }
}

struct forward {
  struct common common;
  float *out; /* contiguous */
};

/* out = slide attention of q, k, v. common.probabilities may be null. Returns 1 without memory. */
FV_EXPORT int FV(slide_forward)(const struct forward *call) {
  const struct common *c = &call->common;
  struct problem problem, *s = &problem;
  describe(s, c, 4, FORWARD_BYTES);
  const int64_t D = s->depth, E = s->value_depth;
  const int64_t key_size = packed_size(s, D), value_size = packed_size(s, E);
  const int64_t in_head = s->row_blocks * s->column_blocks;
  const int64_t blocks = s->batch * s->heads * in_head;
  const int64_t scratch = (D + E + s->slots + 1) * s->plane + (D + E) * s->halo_plane;
  const int threads = (int)(blocks < c->threads ? blocks : c->threads);
  if (blocks == 0) return 0;

  const struct map queries = map_of(c->q, c->strides[0]), keys = map_of(c->k, c->strides[1]);
  const struct map values = map_of(c->v, c->strides[2]);
  const struct map output = packed_map(s, call->out, E);
  float *key_weights = fv_alloc(s->heads * (key_size + value_size) + threads * scratch);
  if (!key_weights || !tap_offsets(s)) {
    fv_free(key_weights);
    return 1;
  }
  float *value_weights = key_weights + s->heads * key_size;
  float *all_scratch = value_weights + s->heads * value_size;
  pack_all_weights(s, c, key_weights, value_weights);

#pragma omp parallel num_threads(threads)
  {
    float *query = all_scratch + fv_thread() * scratch, *mixed = query + D * s->plane;
    float *p = mixed + E * s->plane, *numbers = p + s->slots * s->plane;
    float *key = numbers + s->plane, *value = key + D * s->halo_plane;
    /* The heads of a block follow each other: they lie side by side in memory. */
#pragma omp for schedule(static)
    for (int64_t task = 0; task < blocks; task++) {
      const struct block b =
          block_at(s, task / s->heads / in_head, task % s->heads,
                   task / s->heads % in_head / s->column_blocks,
                   task / s->heads % in_head % s->column_blocks);
      pack_queries(s, &b, &queries, s->depth, s->scale, query);
      pack_halo(s, &b, &keys, s->depth, key);
      score_block(s, b.queries, query, key, key_weights + b.head * key_size, s->depth, p);
      softmax_block(s, b.queries, p);
      if (c->probabilities)
        for (int n = 0; n < s->slots; n++)
          for (int64_t y = 0; y < b.rows; y++)
            memcpy(probability_row(s, &b, c->probabilities, n, y), p + n * s->plane + y * s->pitch,
                   b.columns * sizeof(float));
      if (s->drops) {
        number_queries(s, &b, (int32_t *)numbers);
        drop_block(s, b.queries, (int32_t *)numbers, p, p);
      }
      pack_halo(s, &b, &values, s->value_depth, value);
      mix_block(s, b.queries, p, value, value_weights + b.head * value_size, s->value_depth, mixed);
      unpack_queries(s, &b, mixed, s->value_depth, 1.0f, &output);
    }
  }
  fv_free(key_weights);
  free(s->offset);
  return 0;
}

struct backward {
  struct common common;
  float *gradient; /* of the output */
  int64_t gradient_strides[5];
  float *d_q, *d_k, *d_v; /* contiguous; d_k and d_v zero on entry */
  /* Like the weights, contiguous; all null where none is asked for. */
  float *d_key_weight, *d_key_bias, *d_value_weight, *d_value_bias;
};

static void load_probabilities(const struct problem *s, const struct block *b, float *from,
                               float *to) {
  for (int n = 0; n < s->slots; n++) {
    float *t = to + n * s->plane;
    memset(t, 0, b->queries * sizeof(float));
    for (int64_t y = 0; y < b->rows; y++)
      memcpy(t + y * s->pitch, probability_row(s, b, from, n, y), b->columns * sizeof(float));
  }
}

/* Gradients of q, k, v and the weights from the forward's probabilities. Returns 1 without memory.
 *
 * Blocks add their keys' and values' gradients into the map, halo included. Those that could meet
 * there, neighbours, are kept apart in time: four passes, by the parity of block row and column.
 */
FV_EXPORT int FV(slide_backward)(const struct backward *call) {
  const struct common *c = &call->common;
  struct problem problem, *s = &problem;
  describe(s, c, 3 + (int)c->kernel_width, BACKWARD_BYTES);
  const bool weights_too = call->d_key_weight != NULL;
  const int64_t D = s->depth, E = s->value_depth;
  const int64_t key_size = packed_size(s, D), value_size = packed_size(s, E);
  const int64_t heads = s->batch * s->heads, blocks = heads * s->row_blocks * s->column_blocks;
  const int64_t M = s->deeper, scattered = s->kernel_width * M * s->halo_plane;
  const int64_t scratch = (2 * M + 3 * s->slots + 1) * s->plane + M * s->halo_plane + scattered +
                          STRIP * M;
  const int threads = (int)(blocks < c->threads ? blocks : c->threads);
  const int64_t packed = s->heads * (key_size + value_size);
  const int64_t partial = weights_too ? threads * packed : 0;
  if (blocks == 0) {
    if (weights_too) {
      unpack_weights(s, NULL, 0, D, !c->key_bias_stride, call->d_key_weight, call->d_key_bias);
      unpack_weights(s, NULL, 0, E, !c->value_bias_stride, call->d_value_weight,
                     call->d_value_bias);
    }
    return 0;
  }

  const struct map queries = map_of(c->q, c->strides[0]), keys = map_of(c->k, c->strides[1]);
  const struct map values = map_of(c->v, c->strides[2]);
  const struct map gradients = map_of(call->gradient, call->gradient_strides);
  const struct map d_queries = packed_map(s, call->d_q, D), d_keys = packed_map(s, call->d_k, D);
  const struct map d_values = packed_map(s, call->d_v, E);
  float *key_weights = fv_alloc(packed + partial + threads * scratch);
  if (!key_weights || !tap_offsets(s)) {
    fv_free(key_weights);
    return 1;
  }
  float *value_weights = key_weights + s->heads * key_size;
  float *d_key_weights = key_weights + packed;
  float *d_value_weights = d_key_weights + (weights_too ? threads * s->heads * key_size : 0);
  float *all_scratch = key_weights + packed + partial;
  pack_all_weights(s, c, key_weights, value_weights);
  memset(d_key_weights, 0, partial * sizeof(float));

#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = fv_thread();
    float *near = all_scratch + thread * scratch, *d_near = near + M * s->plane;
    float *p = d_near + M * s->plane, *d_p = p + s->slots * s->plane;
    float *dropped = d_p + s->slots * s->plane, *numbers = dropped + s->slots * s->plane;
    float *far = numbers + s->plane, *d_far = far + M * s->halo_plane, *strip = d_far + scattered;
    for (int pass = 0; pass < 4; pass++) {
      const int64_t rows = (s->row_blocks + 1 - pass / 2) / 2;
      const int64_t columns = (s->column_blocks + 1 - pass % 2) / 2;
#pragma omp for schedule(static)
      for (int64_t task = 0; task < heads * rows * columns; task++) {
        const int64_t image = task / s->heads / (rows * columns);
        const int64_t at = task / s->heads % (rows * columns);
        const struct block b =
            block_at(s, image, task % s->heads, at / columns * 2 + pass / 2,
                     at % columns * 2 + pass % 2);
        const float *key_w = key_weights + b.head * key_size;
        const float *value_w = value_weights + b.head * value_size;
        load_probabilities(s, &b, c->probabilities, p);
        const float *weight = p;

        /* Values: near the query lies the output's gradient, far from it the values. */
        pack_queries(s, &b, &gradients, s->value_depth, 1.0f, near);
        pack_halo(s, &b, &values, s->value_depth, far);
        score_block(s, b.queries, near, far, value_w, s->value_depth, d_p);
        if (s->drops) {
          number_queries(s, &b, (int32_t *)numbers);
          drop_block(s, b.queries, (int32_t *)numbers, p, dropped);
          drop_block(s, b.queries, (int32_t *)numbers, d_p, d_p);
          weight = dropped;
        }
        memset(d_far, 0, scattered * sizeof(float));
        scatter_block(s, b.queries, weight, value_w, s->value_depth, near, d_far);
        sum_scattered(s, s->value_depth, d_far);
        add_halo(s, &b, d_far, s->value_depth, &d_values, strip);
        if (weights_too)
          weight_block(s, b.queries, weight, near, far, s->value_depth,
                       d_value_weights + (thread * s->heads + b.head) * value_size);

        /* Keys: near lies the query, far the keys. */
        softmax_backward_block(s, b.queries, p, d_p);
        pack_queries(s, &b, &queries, s->depth, s->scale, near);
        pack_halo(s, &b, &keys, s->depth, far);
        memset(d_far, 0, scattered * sizeof(float));
        mix_scatter_block(s, b.queries, d_p, far, key_w, s->depth, d_near, near, d_far);
        unpack_queries(s, &b, d_near, s->depth, s->scale, &d_queries);
        sum_scattered(s, s->depth, d_far);
        add_halo(s, &b, d_far, s->depth, &d_keys, strip);
        if (weights_too)
          weight_block(s, b.queries, d_p, near, far, s->depth,
                       d_key_weights + (thread * s->heads + b.head) * key_size);
      }
    }
  }
  if (weights_too) {
    unpack_weights(s, d_key_weights, threads, D, !c->key_bias_stride, call->d_key_weight,
                   call->d_key_bias);
    unpack_weights(s, d_value_weights, threads, E, !c->value_bias_stride, call->d_value_weight,
                   call->d_value_bias);
  }
  fv_free(key_weights);
  free(s->offset);
  return 0;
}
