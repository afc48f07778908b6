/* What the forward and the backward of local attention share: the map, its packing, the products.
 *
 * A dilated map falls apart into classes of positions that see only each other; each class of one
 * head of one image is a dense map (fv_map) with larger strides, so nothing below knows dilation.
 *
 * A tile is FV_LANES neighbouring queries of a row, one a lane. Its keys are packed channel by
 * channel ([channel][column]) so that the keys of tap t are one vector: in a plain tile lane l
 * sees column l + t, a load at offset t. At a "shift" border the windows of neighbours coincide;
 * there the products permute the lanes of what they load, which costs less than packing each tap
 * apart. Where something is masked, one more channel holds what is added to the logits: 0 or -inf.
 */
#ifndef FOVEATE_LOCAL_MAP_H
#define FOVEATE_LOCAL_MAP_H

#include "dropout.h"
#include "simd.h"

enum { BORDER_SHIFT, BORDER_ZERO, BORDER_MASK, BORDER_PADDED };
enum { BIAS_NONE, BIAS_TABLE, BIAS_EACH };

/* The arguments, as foveate/ops/local/native.py packs them. Strides count elements. */
typedef struct {
  int64_t q, k, v, out, lse, bias, key_mask;
  int64_t grad_out, grad_lse, dq, dk, dv, d_bias;
  int64_t q_stride[4], k_stride[4], v_stride[4], grad_stride[4], bias_stride[4], mask_stride[3];
  int64_t batch, height, width, heads, dim, value_dim, key_height, key_width;
  int64_t kernel_h, kernel_w, dilation_h, dilation_w, border, bias_kind, threads;
  int64_t seed_low, seed_high, threshold;
  double scale, kept_scale;
} fv_local;

/* Rows of queries that are computed together: what the registers hold with seven taps. */
#if defined(__AVX512VL__) || defined(__aarch64__)
#define ROWS 3
#else
#define ROWS 2
#endif
#define TAPS 7
#define L FV_LANES

/* ---- the products, in registers ---------------------------------------------------------- */

/* The packed keys of a tap; `lanes` are the columns that the lanes see, beyond that of lane 0. */
FV_INLINE fv_f tap_at(const float *p, const int plain, fv_i lanes) {
  return plain ? fv_load(p) : fv_pick(p, lanes);
}

/* logits[r][t] = sum_d q[r][d] * k[d][t], lane by lane, for R rows and T taps. */
FV_INLINE void dot_taps(const int R, const int T, const int plain, fv_i lanes, const float *q,
                        ptrdiff_t q_row, ptrdiff_t q_step, const float *k, ptrdiff_t k_step,
                        int dim, float *logits, ptrdiff_t logits_row) {
  fv_f sum[ROWS][TAPS];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sum[r][t] = (fv_f){0};
  for (int d = 0; d < dim; ++d) {
    fv_f query[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) query[r] = fv_load(q + r * q_row + d * q_step);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      fv_f key = tap_at(k + d * k_step + t, plain, lanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][t] += query[r] * key;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) fv_store(logits + r * logits_row + t * L, sum[r][t]);
}

/* out[r][d] += sum_t weights[r][t] * v[d][t]. */
FV_INLINE void weigh_taps(const int R, const int T, const int plain, fv_i lanes,
                          const float *weights, ptrdiff_t weights_row, ptrdiff_t weights_tap,
                          const float *v, ptrdiff_t v_step, int dim, float *out,
                          ptrdiff_t out_row) {
  fv_f weight[ROWS][TAPS];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) weight[r][t] = fv_load(weights + r * weights_row + t * weights_tap);
  for (int d = 0; d < dim; ++d) {
    fv_f sum[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] = fv_load(out + r * out_row + d * L);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      fv_f value = tap_at(v + d * v_step + t, plain, lanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r] += weight[r][t] * value;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) fv_store(out + r * out_row + d * L, sum[r]);
  }
}

typedef void (*dot_function)(fv_i, const float *, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t,
                             int, float *, ptrdiff_t);
typedef void (*weigh_function)(fv_i, const float *, ptrdiff_t, ptrdiff_t, const float *, ptrdiff_t,
                               int, float *, ptrdiff_t);

#define DEFINE(R, T, NAME, PLAIN)                                                                 \
  static void dot_##R##_##T##_##NAME(fv_i lanes, const float *q, ptrdiff_t q_row,                 \
                                     ptrdiff_t q_step, const float *k, ptrdiff_t k_step, int dim, \
                                     float *logits, ptrdiff_t logits_row) {                       \
    dot_taps(R, T, PLAIN, lanes, q, q_row, q_step, k, k_step, dim, logits, logits_row);           \
  }                                                                                               \
  static void weigh_##R##_##T##_##NAME(fv_i lanes, const float *weights, ptrdiff_t row,           \
                                       ptrdiff_t tap, const float *v, ptrdiff_t v_step, int dim,  \
                                       float *out, ptrdiff_t out_row) {                           \
    weigh_taps(R, T, PLAIN, lanes, weights, row, tap, v, v_step, dim, out, out_row);              \
  }
#define FOR_TAPS(M, R, NAME, PLAIN)                                                               \
  M(R, 1, NAME, PLAIN) M(R, 2, NAME, PLAIN) M(R, 3, NAME, PLAIN) M(R, 4, NAME, PLAIN)             \
  M(R, 5, NAME, PLAIN) M(R, 6, NAME, PLAIN) M(R, 7, NAME, PLAIN)
#define DOT(R, T, NAME, PLAIN) dot_##R##_##T##_##NAME,
#define WEIGH(R, T, NAME, PLAIN) weigh_##R##_##T##_##NAME,
FOR_TAPS(DEFINE, 1, plain, 1)
FOR_TAPS(DEFINE, 2, plain, 1)
FOR_TAPS(DEFINE, 1, shifted, 0)
FOR_TAPS(DEFINE, 2, shifted, 0)
#if ROWS == 3
FOR_TAPS(DEFINE, 3, plain, 1)
FOR_TAPS(DEFINE, 3, shifted, 0)
#endif
static const dot_function dot_table[2][ROWS][TAPS] = {
    {{FOR_TAPS(DOT, 1, plain, 1)}, {FOR_TAPS(DOT, 2, plain, 1)},
#if ROWS == 3
     {FOR_TAPS(DOT, 3, plain, 1)}
#endif
    },
    {{FOR_TAPS(DOT, 1, shifted, 0)}, {FOR_TAPS(DOT, 2, shifted, 0)},
#if ROWS == 3
     {FOR_TAPS(DOT, 3, shifted, 0)}
#endif
    }};
static const weigh_function weigh_table[2][ROWS][TAPS] = {
    {{FOR_TAPS(WEIGH, 1, plain, 1)}, {FOR_TAPS(WEIGH, 2, plain, 1)},
#if ROWS == 3
     {FOR_TAPS(WEIGH, 3, plain, 1)}
#endif
    },
    {{FOR_TAPS(WEIGH, 1, shifted, 0)}, {FOR_TAPS(WEIGH, 2, shifted, 0)},
#if ROWS == 3
     {FOR_TAPS(WEIGH, 3, shifted, 0)}
#endif
    }};

/* Taps of a chunk when `taps` of them are done in nearly equal chunks of at most TAPS. */
FV_INLINE int chunk_of(int taps) {
  int chunks = (taps + TAPS - 1) / TAPS;
  return (taps + chunks - 1) / chunks;
}

/* ---- a map and its tiles ----------------------------------------------------------------- */

typedef struct {
  const float *data;
  ptrdiff_t row, column;
} fv_plane;

typedef struct {
  int height, width, key_height, key_width; /* of this class */
  int kernel_h, kernel_w, before_h, before_w, border;
  int image, head, class_y, class_x;
  int tiles;
} fv_map;

/* Columns of a tile's packed channel. */
FV_INLINE int tile_columns(int kernel_w) { return (L + kernel_w - 1 + L - 1) / L * L; }

/* Where the window of a query starts among the keys; outside the map it may. */
FV_INLINE int window_start(int position, int keys, int kernel, int before, int border) {
  int start = position - before;
  if (border == BORDER_SHIFT) {
    if (start > keys - kernel) start = keys - kernel;
    if (start < 0) start = 0;
  }
  return start;
}

FV_INLINE int row_start(const fv_map *m, int y) {
  return window_start(y, m->key_height, m->kernel_h, m->before_h, m->border);
}

FV_INLINE int column_start(const fv_map *m, int x) {
  if (m->border == BORDER_SHIFT && x >= m->width) x = m->width - 1;
  return window_start(x, m->key_width, m->kernel_w, m->before_w, m->border);
}

/* Whether lane l of the tile sees column l + t of the packed keys. */
FV_INLINE int tile_is_plain(const fv_map *m, int tile) {
  return column_start(m, tile * L + L - 1) - column_start(m, tile * L) == L - 1;
}

/* The packed columns that a tile's lanes see at tap 0, beyond that of lane 0. */
FV_INLINE fv_i tile_lanes(const fv_map *m, int tile) {
  fv_i lanes;
  for (int i = 0; i < L; ++i) lanes[i] = column_start(m, tile * L + i) - column_start(m, tile * L);
  return lanes;
}

/* The lanes of a tile that are columns of the map. */
FV_INLINE int lanes_of(const fv_map *m, int tile) {
  return m->width - tile * L < L ? m->width - tile * L : L;
}

FV_INLINE int64_t class_length(int64_t length, int64_t dilation, int64_t class) {
  return (length - class + dilation - 1) / dilation;
}

/* Maps there are; their numbers count classes of columns slowest, as those differ in width. */
FV_INLINE int64_t map_count(const fv_local *a) {
  return a->batch * a->heads * a->dilation_h * a->dilation_w;
}

FV_INLINE fv_map map_of(const fv_local *a, int64_t number) {
  fv_map m;
  m.class_y = number % a->dilation_h;
  number /= a->dilation_h;
  m.head = number % a->heads;
  number /= a->heads;
  m.image = number % a->batch;
  m.class_x = number / a->batch;
  m.height = class_length(a->height, a->dilation_h, m.class_y);
  m.width = class_length(a->width, a->dilation_w, m.class_x);
  m.key_height = class_length(a->key_height, a->dilation_h, m.class_y);
  m.key_width = class_length(a->key_width, a->dilation_w, m.class_x);
  m.kernel_h = a->kernel_h;
  m.kernel_w = a->kernel_w;
  m.border = a->border;
  m.before_h = a->border == BORDER_PADDED ? 0 : a->kernel_h / 2;
  m.before_w = a->border == BORDER_PADDED ? 0 : a->kernel_w / 2;
  m.tiles = (m.width + L - 1) / L;
  return m;
}

/* The rows of a map's class in a tensor (B, H, W, heads, D) with these strides. */
FV_INLINE fv_plane plane_of(const fv_local *a, const fv_map *m, int64_t data,
                            const int64_t *stride) {
  fv_plane p;
  p.data = (const float *)(intptr_t)data + m->image * stride[0] + m->class_y * stride[1] +
           m->class_x * stride[2] + m->head * stride[3];
  p.row = stride[1] * a->dilation_h;
  p.column = stride[2] * a->dilation_w;
  return p;
}

/* Prefetch rows [begin, end) of the L columns from x on, as far as they are in the map. Hardware
 * does not foresee these reads: each is one head's few channels, far from the next position's.
 */
FV_INLINE void prefetch_tile(const fv_plane *p, int begin, int end, int height, int x, int width,
                             int dim) {
  const int last = x + L < width ? x + L : width;
  if (begin < 0) begin = 0;
  if (end > height) end = height;
  for (int y = begin; y < end; ++y)
    for (int i = x; i < last; ++i)
      for (int c = 0; c < dim; c += 16) fv_prefetch(p->data + y * p->row + i * p->column + c);
}

/* to[c * L + lane] = factor * from[lane][c]: queries of one tile, channel by channel. */
static void pack_lanes(const float *const *from, float *to, ptrdiff_t to_step, int columns,
                       float factor) {
  int c = 0;
  for (; c + FV_BLOCK <= columns; c += FV_BLOCK) {
    fv_b block[FV_BLOCK];
    for (int i = 0; i < FV_BLOCK; ++i) block[i] = *(const fv_b_unaligned *)(from[i] + c) * factor;
    fv_transpose_block(block);
    for (int i = 0; i < FV_BLOCK; ++i) *(fv_b_unaligned *)(to + (c + i) * to_step) = block[i];
  }
  for (; c < columns; ++c)
    for (int i = 0; i < L; ++i) to[c * to_step + i] = factor * from[i][c];
}

/* The inverse: lanes of to[lane][c] from from[c * L + lane], `lanes` of them. */
static void unpack_lanes(const float *from, float *to, ptrdiff_t to_lane, int columns, int lanes) {
  int c = 0;
  for (; c + FV_BLOCK <= columns; c += FV_BLOCK) {
    fv_b block[FV_BLOCK];
    for (int i = 0; i < FV_BLOCK; ++i) block[i] = *(const fv_b_unaligned *)(from + (c + i) * L);
    fv_transpose_block(block);
    for (int i = 0; i < lanes; ++i) *(fv_b_unaligned *)(to + i * to_lane + c) = block[i];
  }
  for (; c < columns; ++c)
    for (int i = 0; i < lanes; ++i) to[i * to_lane + c] = from[c * L + i];
}

/* Prefetch what unpack_lanes writes. */
FV_INLINE void prefetch_lanes(const float *to, ptrdiff_t to_lane, int columns, int lanes) {
  for (int i = 0; i < lanes; ++i)
    for (int c = 0; c < columns; c += 16) fv_prefetch_write(to + i * to_lane + c);
}

/* ---- packed keys or values --------------------------------------------------------------- */

typedef struct {
  const fv_map *map;
  fv_plane plane;
  int dim, channels; /* channels: dim, and one more for a mask */
  const uint8_t *key_mask;
  ptrdiff_t mask_row, mask_column;
  float outside; /* the mask channel's value outside the map */
  float *ring, *zero; /* packed rows; the packed row that stands for those outside the map */
  float *line; /* one row, [channel][margin + column] */
  int rows, packed; /* of the ring; the first row not yet packed */
  ptrdiff_t row_size, tile_size, line_size, margin;
} fv_pack;

FV_INLINE ptrdiff_t line_floats(int64_t width, int64_t kernel_w) {
  return (kernel_w + L - 1) / L * L + (width + L - 1) / L * L + 2 * tile_columns(kernel_w);
}

FV_INLINE int most_tiles(const fv_local *a) {
  return (int)((class_length(a->width, a->dilation_w, 0) + L - 1) / L);
}

/* Floats that any packed row of this call needs at most. */
FV_INLINE ptrdiff_t packed_row_floats(const fv_local *a, int channels) {
  return (ptrdiff_t)channels * most_tiles(a) * tile_columns((int)a->kernel_w);
}

static void pack_start(fv_pack *p, const fv_map *m, fv_plane plane) {
  p->map = m;
  p->plane = plane;
  p->packed = -m->kernel_h;
  p->tile_size = (ptrdiff_t)p->channels * tile_columns(m->kernel_w);
  p->row_size = m->tiles * p->tile_size;
}

/* Spread the line, [channel][column], over the tiles of a packed row. */
static void pack_tiles(const fv_pack *p, float *to) {
  const fv_map *m = p->map;
  const int step = tile_columns(m->kernel_w);
  for (int tile = 0; tile < m->tiles; ++tile, to += p->tile_size) {
    const float *from = p->line + p->margin + column_start(m, tile * L);
    for (int c = 0; c < p->channels; ++c)
      for (int i = 0; i < step; i += L)
        fv_store(to + c * step + i, fv_load(from + c * p->line_size + i));
  }
}

static void mask_line(const fv_pack *p, int row) {
  float *line = p->line + p->dim * p->line_size;
  for (ptrdiff_t i = 0; i < p->line_size; ++i) line[i] = p->outside;
  for (int x = 0; x < p->map->key_width; ++x)
    line[p->margin + x] =
        !p->key_mask || p->key_mask[row * p->mask_row + x * p->mask_column] ? 0.f : -INFINITY;
}

static void pack_row(fv_pack *p, int row) {
  const fv_map *m = p->map;
  const float *from = p->plane.data + row * p->plane.row;
  float *line = p->line + p->margin;
  int x = 0;
  for (; x + L <= m->key_width; x += L) {
    const float *lanes[L];
    for (int i = 0; i < L; ++i) lanes[i] = from + (x + i) * p->plane.column;
    pack_lanes(lanes, line + x, p->line_size, p->dim, 1.f);
  }
  for (; x < m->key_width; ++x)
    for (int c = 0; c < p->dim; ++c) line[c * p->line_size + x] = from[x * p->plane.column + c];
  if (p->channels > p->dim) mask_line(p, row);
  pack_tiles(p, p->ring + (row % p->rows) * p->row_size);
}

/* Zero the line around the map and prepare the row that stands for rows outside. */
static void pack_margins(fv_pack *p) {
  memset(p->line, 0, (size_t)(p->channels * p->line_size) * sizeof(float));
  memset(p->zero, 0, (size_t)p->row_size * sizeof(float));
}

/* Have the rows [begin, end) packed; calls go forward through the map. */
static void pack_rows(fv_pack *p, int begin, int end) {
  if (begin < 0) begin = 0;
  if (end > p->map->key_height) end = p->map->key_height;
  if (p->packed < begin) p->packed = begin;
  for (; p->packed < end; ++p->packed) pack_row(p, p->packed);
}

/* Prefetch the ROWS rows from `row` on, of a tile's columns, that the next block packs. */
FV_INLINE void prefetch_next(const fv_map *m, const fv_pack *keys, const fv_pack *values, int row,
                             int tile) {
  const int x = tile * L, end = row + ROWS;
  prefetch_tile(&keys->plane, row, end, m->key_height, x, m->key_width, keys->dim);
  prefetch_tile(&values->plane, row, end, m->key_height, x, m->key_width, values->dim);
}

FV_INLINE const float *packed_tile(const fv_pack *p, int row, int tile) {
  int inside = row >= 0 && row < p->map->key_height;
  return (inside ? p->ring + (row % p->rows) * p->row_size : p->zero) + tile * p->tile_size;
}

#endif
