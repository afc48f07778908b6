/* The products of window attention, in registers: a block of queries, two vectors wide or one, with
 * rows of keys or values that are read where they lie, a number at a time for all lanes.
 */
#ifndef FOVEATE_WINDOW_PRODUCTS_H
#define FOVEATE_WINDOW_PRODUCTS_H

#include "map.h"

#if defined(__AVX512VL__) || defined(__aarch64__)
#define TAPS 8 /* keys, or channels, in registers at once: two vectors each, of 32 registers */
#else
#define TAPS 4 /* of 16 registers */
#endif

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
  for (; d < dim; ++d) mix_channels(weights, weights_row, rows, count, d, vectors, 1, factor, to);
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

#endif
