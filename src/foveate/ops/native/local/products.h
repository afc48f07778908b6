/* The products of local attention, in registers: logits of taps, and values weighed by taps.
 *
 * Both take up to ROWS rows at once, each with a row of keys or values of its own, packed channel
 * by channel. Where the rows read the same one they share what they load.
 */
#ifndef FOVEATE_LOCAL_PRODUCTS_H
#define FOVEATE_LOCAL_PRODUCTS_H

#include "../common/simd.h"

/* What the registers hold with TAPS taps. With many registers, weigh_taps sums CHANNELS channels
 * at once, so that additions need not wait for each other.
 */
#if defined(__AVX512VL__) || defined(__aarch64__)
#define ROWS 3
#define CHANNELS 2
#else
#define ROWS 2
#define CHANNELS 1
#endif
#define TAPS 7

/* Rows of keys or values from a tile's first column on. Plain: lane l sees column l + t at tap t;
 * else column lanes[l] + t.
 */
typedef struct {
  const float *row[ROWS];
  ptrdiff_t step; /* from a channel to the next */
  fv_i lanes;
} fv_columns;

FV_INLINE fv_f tap_at(const float *p, const int plain, fv_i lanes) {
  return plain ? fv_load(p) : fv_pick(p, lanes);
}

/* to[r][t] = sum_d q[r][d] * k[r][d][t], lane by lane, for R rows and T taps. */
FV_INLINE void dot_taps(const int R, const int T, const int split, const int plain,
                        const float *const *q, ptrdiff_t q_step, const fv_columns *k, int tap,
                        int dim, float *const *to) {
  const fv_i lanes = k->lanes;
  const ptrdiff_t k_step = k->step;
  const float *query_at[ROWS], *key_at[ROWS];
  fv_f sum[ROWS][TAPS];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    query_at[r] = q[r];
    key_at[r] = k->row[r] + tap;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sum[r][t] = (fv_f){0};
  }
#pragma GCC unroll 4
  for (int d = 0; d < dim; ++d) {
    fv_f query[ROWS], key[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) query[r] = fv_load(query_at[r] + d * q_step);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        key[r] = r && r != split ? key[r - 1] : tap_at(key_at[r] + d * k_step + t, plain, lanes);
        sum[r][t] += query[r] * key[r];
      }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) fv_store(to[r] + (tap + t) * L, sum[r][t]);
}

/* The same sums as weigh_taps, for N channels from d on. */
FV_INLINE void weigh_channels(const int R, const int T, const int N, const int split,
                              const int plain, fv_i lanes, fv_f (*weight)[TAPS],
                              const float *const *v, ptrdiff_t v_step, int d, float *const *out) {
  fv_f sum[ROWS][CHANNELS], value[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) sum[r][c] = fv_load(out[r] + (d + c) * L);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float *at = v[r] + (d + c) * v_step + t;
        value[r] = r && r != split ? value[r - 1] : tap_at(at, plain, lanes);
        sum[r][c] += weight[r][t] * value[r];
      }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < N; ++c) fv_store(out[r] + (d + c) * L, sum[r][c]);
}

/* out[r][d] += sum_t weights[r][t] * v[r][d][t]; taps of the weights lie weights_tap apart. */
FV_INLINE void weigh_taps(const int R, const int T, const int split, const int plain,
                          const float *const *weights, ptrdiff_t weights_tap, const fv_columns *v,
                          int tap, int dim, float *const *out) {
  const fv_i lanes = v->lanes;
  const ptrdiff_t v_step = v->step;
  const float *value_at[ROWS];
  float *out_at[ROWS];
  fv_f weight[ROWS][TAPS];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    value_at[r] = v->row[r] + tap;
    out_at[r] = out[r];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) weight[r][t] = fv_load(weights[r] + (tap + t) * weights_tap);
  }
  int d = 0;
#pragma GCC unroll 2
  for (; d + CHANNELS <= dim; d += CHANNELS)
    weigh_channels(R, T, CHANNELS, split, plain, lanes, weight, value_at, v_step, d, out_at);
  for (; d < dim; ++d)
    weigh_channels(R, T, 1, split, plain, lanes, weight, value_at, v_step, d, out_at);
}

/* ---- one function for each number of rows and taps ---------------------------------------- */

typedef void (*dot_function)(const float *const *, ptrdiff_t, const fv_columns *, int, int,
                             float *const *);
typedef void (*weigh_function)(const float *const *, ptrdiff_t, const fv_columns *, int, int,
                               float *const *);

/* clang-format off */
#define EACH_TAPS(M, R, NAME, SPLIT, PLAIN)                                           \
  M(R, 1, NAME, SPLIT, PLAIN) M(R, 2, NAME, SPLIT, PLAIN) M(R, 3, NAME, SPLIT, PLAIN) \
  M(R, 4, NAME, SPLIT, PLAIN) M(R, 5, NAME, SPLIT, PLAIN) M(R, 6, NAME, SPLIT, PLAIN) \
  M(R, 7, NAME, SPLIT, PLAIN)
/* clang-format on */

#define DEFINE(R, T, NAME, SPLIT, PLAIN)                                                           \
  static void dot_##R##_##T##_##NAME(const float *const *q, ptrdiff_t q_step, const fv_columns *k, \
                                     int tap, int dim, float *const *to) {                         \
    dot_taps(R, T, SPLIT, PLAIN, q, q_step, k, tap, dim, to);                                      \
  }                                                                                                \
  static void weigh_##R##_##T##_##NAME(const float *const *weights, ptrdiff_t weights_tap,         \
                                       const fv_columns *v, int tap, int dim, float *const *out) { \
    weigh_taps(R, T, SPLIT, PLAIN, weights, weights_tap, v, tap, dim, out);                        \
  }
#define VARIANT(R, NAME, SPLIT, PLAIN) EACH_TAPS(DEFINE, R, NAME, SPLIT, PLAIN)
#include "variants.inc"
#undef VARIANT

/* [shifted][rows - 1][split][taps - 1] */
#define DOT(R, T, NAME, SPLIT, PLAIN) dot_##R##_##T##_##NAME,
#define VARIANT(R, NAME, SPLIT, PLAIN) \
  [!(PLAIN)][R - 1][SPLIT] = {EACH_TAPS(DOT, R, NAME, SPLIT, PLAIN)},
static const dot_function dot_table[2][ROWS][ROWS][TAPS] = {
#include "variants.inc"
};
#undef VARIANT

#define WEIGH(R, T, NAME, SPLIT, PLAIN) weigh_##R##_##T##_##NAME,
#define VARIANT(R, NAME, SPLIT, PLAIN) \
  [!(PLAIN)][R - 1][SPLIT] = {EACH_TAPS(WEIGH, R, NAME, SPLIT, PLAIN)},
static const weigh_function weigh_table[2][ROWS][ROWS][TAPS] = {
#include "variants.inc"
};
#undef VARIANT

/* Taps of a chunk when `taps` of them are done in nearly equal chunks of at most TAPS. */
FV_INLINE int chunk_of(int taps) {
  int chunks = (taps + TAPS - 1) / TAPS;
  return (taps + chunks - 1) / chunks;
}

#endif
