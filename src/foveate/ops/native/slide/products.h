/* The products of slide attention along one row of queries, a line at a time.
 *
 * Slot n's vector at a column is bias[n] + sum over taps of weight[n][tap] * keys: a depthwise
 * convolution that stays in registers, for GROUP shifts and TILE neighbouring queries at once.
 *
 * scores and probabilities are (shifts filled up to groups, columns).
 */
#ifndef FOVEATE_SLIDE_PRODUCTS_H
#define FOVEATE_SLIDE_PRODUCTS_H

#include "map.h"

/* Hold a vector in its register where the compiler would load it again for each use. */
#if defined(__AVX512F__)
#define KEEP(x) __asm__("" : "+v"(x))
#else
#define KEEP(x) ((void)0)
#endif
/* Taps whose weight gradients stay in registers at once. */
#define TAP_BLOCK (TILE == 2 ? 3 : 1)

/* maps[t][n] = shift n of the query whose window begins at float `at` of the lines, t columns on.
 */
FV_INLINE void convolve(const float *const *keys, int64_t at, const float *weight,
                        const float *bias, int kernel_h, int kernel_w, fv_f maps[TILE][GROUP]) {
  for (int n = 0; n < GROUP; ++n)
    for (int t = 0; t < TILE; ++t) maps[t][n] = fv_load(bias + n * L);
  for (int i = 0; i < kernel_h; ++i)
    for (int j = 0; j < kernel_w; ++j, weight += GROUP * L) {
      fv_f pixel[TILE];
      for (int t = 0; t < TILE; ++t) pixel[t] = fv_load(keys[i] + at + (j + t) * L);
      for (int n = 0; n < GROUP; ++n) {
        fv_f w = fv_load(weight + n * L);
        if (TILE > 1) KEEP(w);
        for (int t = 0; t < TILE; ++t) maps[t][n] += pixel[t] * w;
      }
    }
}

/* scores[shift] = sum over channels of query * the shift's vector. sums: GROUP * L vectors. ahead:
 * of query and keys.
 */
FV_INLINE void score_body(const fv_sizes *s, const float *query, const float *const *keys,
                          const float *weight, const float *bias, int chunks, float *sums,
                          float *scores, const fv_patch ahead[2], int kernel_h, int kernel_w) {
  for (int64_t start = 0; start < s->width; start += L) {
    const int count = s->width - start < L ? (int)(s->width - start) : L;
    if (count < L) memset(sums, 0, GROUP * L * L * sizeof(float));
    for (int group = 0; group < s->groups; ++group) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const int64_t block = group * chunks + chunk;
        const float *w = weight + block * s->taps * GROUP * L, *b = bias + block * GROUP * L;
        for (int x = 0; x < count; x += TILE) {
          fv_f maps[TILE][GROUP];
          convolve(keys, (chunk * s->pitch + start + x) * L, w, b, kernel_h, kernel_w, maps);
          for (int t = 0; t < TILE; ++t) {
            const fv_f q = fv_load(query + (chunk * s->columns + start + x + t) * L);
            for (int i = 0; i < 2 && !group; ++i)
              fv_prefetch(fv_ahead_at(&ahead[i], start + x + t, chunk));
            for (int n = 0; n < GROUP; ++n) {
              float *sum = sums + (n * L + x + t) * L;
              fv_store(sum, chunk ? fv_load(sum) + q * maps[t][n] : q * maps[t][n]);
            }
          }
        }
      }
      for (int n = 0; n < GROUP; ++n)
        fv_store(scores + (group * GROUP + n) * s->columns + start, fv_sums(sums + n * L * L));
    }
  }
}

/* out = sum over shifts of p[shift] * the shift's vector. ahead: where out goes, and values's. */
FV_INLINE void mix_body(const fv_sizes *s, const float *p, const float *const *values,
                        const float *weight, const float *bias, int chunks, float *out,
                        const fv_patch ahead[2], int kernel_h, int kernel_w) {
  for (int chunk = 0; chunk < chunks; ++chunk)
    for (int group = 0; group < s->groups; ++group) {
      const int64_t block = group * chunks + chunk;
      const float *w = weight + block * s->taps * GROUP * L, *b = bias + block * GROUP * L;
      const float *p_group = p + group * GROUP * s->columns;
      for (int64_t x = 0; x < s->width; x += TILE) {
        fv_f maps[TILE][GROUP];
        convolve(values, (chunk * s->pitch + x) * L, w, b, kernel_h, kernel_w, maps);
        for (int t = 0; t < TILE; ++t) {
          if (!group) {
            fv_prefetch_write(fv_ahead_at(&ahead[0], x + t, chunk));
            fv_prefetch(fv_ahead_at(&ahead[1], x + t, chunk));
          }
          float *to = out + (chunk * s->columns + x + t) * L;
          fv_f sum = group ? fv_load(to) : (fv_f){0};
          for (int n = 0; n < GROUP; ++n) sum += maps[t][n] * p_group[n * s->columns + x + t];
          fv_store(to, sum);
        }
      }
    }
}

/* With weights by taps. `mix`: d_query = sum over shifts n of p[n] * the shift's vector, which is the
 * query's gradient where p is that of the scores. Always: the lines d_keys gain the query's share,
 * for those taps whose row of the window is in [first, last). ahead: of query and keys, if `mix`,
 * and where the gradients that this row completes go: the keys' and, if `mix`, the query's.
 */
FV_INLINE void blend_body(const fv_sizes *s, const float *p, const float *query,
                          const float *const *keys, const float *weight, const float *bias,
                          int chunks, int first, int last, float *d_query, float *const *d_keys,
                          const fv_patch *ahead, bool mix, int kernel_w, int taps) {
  for (int chunk = 0; chunk < chunks; ++chunk)
    for (int group = 0; group * GROUP < taps; ++group) {
      const float *w_block = weight + (int64_t)(group * chunks + chunk) * s->shifts * GROUP * L;
      for (int64_t x = 0; x < s->width; x += TILE) {
        const int64_t at = (chunk * s->columns + x) * L, keys_at = (chunk * s->pitch + x) * L;
        fv_f blend[TILE][GROUP] = {{{0}}}, sum[TILE] = {{0}}, q[TILE];
        const float *w = w_block;
        for (int n = 0; n < s->shifts; ++n, w += GROUP * L) {
          const float *probability = p + n * s->columns + x;
          for (int j = 0; j < GROUP; ++j) {
            fv_f tap = fv_load(w + j * L);
            if (TILE > 1) KEEP(tap);
            for (int t = 0; t < TILE; ++t) blend[t][j] += tap * probability[t];
          }
        }
        for (int t = 0; t < TILE; ++t) {
          q[t] = fv_load(query + at + t * L);
          if (mix && group) sum[t] = fv_load(d_query + at + t * L);
          if (group) continue;
          for (int i = 0; i < 2 && mix; ++i) fv_prefetch(fv_ahead_at(&ahead[i], x + t, chunk));
          for (int i = 2; i < (mix ? 4 : 3); ++i)
            fv_prefetch_write(fv_ahead_at(&ahead[i], x + t, chunk));
        }
        for (int j = 0; j < GROUP && group * GROUP + j < taps; ++j) {
          const int row = (group * GROUP + j) / kernel_w;
          const int column = (group * GROUP + j) % kernel_w;
          for (int t = 0; t < TILE; ++t) {
            const int64_t there = keys_at + (column + t) * L;
            if (mix) sum[t] += blend[t][j] * fv_load(keys[row] + there);
            if (row < first || row >= last) continue;
            fv_store(d_keys[row] + there, fv_load(d_keys[row] + there) + blend[t][j] * q[t]);
          }
        }
        if (mix)
          for (int t = 0; t < TILE; ++t) fv_store(d_query + at + t * L, sum[t]);
      }
    }
  if (!mix) return;
  for (int group = 0; group < s->groups; ++group)
    for (int chunk = 0; chunk < chunks; ++chunk, bias += GROUP * L)
      for (int64_t x = 0; x < s->width; ++x) {
        float *to = d_query + (chunk * s->columns + x) * L;
        fv_f sum = fv_load(to);
        for (int n = 0; n < GROUP; ++n)
          sum += fv_load(bias + n * L) * p[(group * GROUP + n) * s->columns + x];
        fv_store(to, sum);
      }
}

/* d_weight[tap][shift] += sum over columns of p[shift] * query * keys, for `count` taps from `first`
 * on; keys null stands for the bias, whose shifted map is one everywhere.
 */
FV_INLINE void weight_taps(const fv_sizes *s, const float *p, const float *query,
                           const float *const *keys, int64_t keys_at, int first, int count,
                           float *d_weight) {
  fv_f sum[TAP_BLOCK][GROUP];
  for (int j = 0; j < count; ++j)
    for (int n = 0; n < GROUP; ++n) sum[j][n] = fv_load(d_weight + (j * GROUP + n) * L);
  const float *from[TAP_BLOCK];
  for (int j = 0; j < count && keys; ++j)
    from[j] = keys[(first + j) / s->kernel_w] + keys_at + (first + j) % s->kernel_w * L;
  for (int64_t x = 0; x < s->width; ++x) {
    const fv_f q = fv_load(query + x * L);
    fv_f product[TAP_BLOCK];
    for (int j = 0; j < count; ++j) product[j] = keys ? q * fv_load(from[j] + x * L) : q;
    for (int n = 0; n < GROUP; ++n) {
      fv_f probability = fv_set(p[n * s->columns + x]);
      KEEP(probability);
      for (int j = 0; j < count; ++j) sum[j][n] += probability * product[j];
    }
  }
  for (int j = 0; j < count; ++j)
    for (int n = 0; n < GROUP; ++n) fv_store(d_weight + (j * GROUP + n) * L, sum[j][n]);
}

/* 3x3 gets bodies of its own: with the taps known, the loops over them unroll. */
FV_INLINE bool three_by_three(const fv_sizes *s) { return s->kernel_h == 3 && s->kernel_w == 3; }

static void score_row(const fv_sizes *s, const float *query, const float *const *keys, fv_packed w,
                      int64_t head, int chunks, float *sums, float *scores,
                      const fv_patch ahead[2]) {
  const float *bias = w.bias + head * bias_size(s, chunks);
  if (three_by_three(s))
    score_body(s, query, keys, w.weight, bias, chunks, sums, scores, ahead, 3, 3);
  else
    score_body(s, query, keys, w.weight, bias, chunks, sums, scores, ahead, s->kernel_h,
               s->kernel_w);
}

#endif
