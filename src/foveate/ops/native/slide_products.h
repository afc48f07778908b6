/* The products of slide attention along one row of queries, a line at a time.
 *
 * Slot n's vector at a column is bias[n] + sum over taps of weight[n][tap] * far: a depthwise
 * convolution that stays in registers, for GROUP slots and TILE neighbouring queries at once.
 *
 * scores and probabilities are (slots filled up to groups, columns).
 */
#ifndef FOVEATE_SLIDE_PRODUCTS_H
#define FOVEATE_SLIDE_PRODUCTS_H

#include "slide_map.h"

/* Hold a vector in its register where the compiler would load it again for each use. */
#if defined(__AVX512F__)
#define KEEP(x) __asm__("" : "+v"(x))
#else
#define KEEP(x) ((void)0)
#endif
/* Taps whose weight gradients stay in registers at once. */
#define TAP_BLOCK (TILE == 2 ? 3 : 1)

/* maps[t][n] = slot n of the query whose window begins at float `at` of the lines, t columns on. */
FV_INLINE void convolve(const float *const *far, int64_t at, const float *weight,
                        const float *bias, int kernel_height, int kernel_width,
                        fv_f maps[TILE][GROUP]) {
  for (int n = 0; n < GROUP; n++)
    for (int t = 0; t < TILE; t++) maps[t][n] = fv_load(bias + n * L);
  for (int i = 0; i < kernel_height; i++)
    for (int j = 0; j < kernel_width; j++, weight += GROUP * L) {
      fv_f pixel[TILE];
      for (int t = 0; t < TILE; t++) pixel[t] = fv_load(far[i] + at + (j + t) * L);
      for (int n = 0; n < GROUP; n++) {
        fv_f w = fv_load(weight + n * L);
        if (TILE > 1) KEEP(w);
        for (int t = 0; t < TILE; t++) maps[t][n] += pixel[t] * w;
      }
    }
}

/* scores[slot] = sum over channels of near * the slot's vector. sums: GROUP * L vectors. ahead: of
 * near and far. */
FV_INLINE void score_body(const struct problem *s, const float *near, const float *const *far,
                          const float *weight, const float *bias, int chunks, float *sums,
                          float *scores, const struct ahead ahead[2], int kernel_height,
                          int kernel_width) {
  for (int64_t start = 0; start < s->width; start += L) {
    const int count = s->width - start < L ? (int)(s->width - start) : L;
    if (count < L) memset(sums, 0, GROUP * L * L * sizeof(float));
    for (int group = 0; group < s->groups; group++) {
      for (int chunk = 0; chunk < chunks; chunk++) {
        const int64_t part = group * chunks + chunk;
        const float *w = weight + part * s->taps * GROUP * L, *b = bias + part * GROUP * L;
        for (int x = 0; x < count; x += TILE) {
          fv_f maps[TILE][GROUP];
          convolve(far, (chunk * s->pitch + start + x) * L, w, b, kernel_height, kernel_width,
                   maps);
          for (int t = 0; t < TILE; t++) {
            const fv_f query = fv_load(near + (chunk * s->columns + start + x + t) * L);
            for (int i = 0; i < 2 && !group; i++) fetch(ahead[i], start + x + t, chunk);
            for (int n = 0; n < GROUP; n++) {
              float *sum = sums + (n * L + x + t) * L;
              fv_store(sum, chunk ? fv_load(sum) + query * maps[t][n] : query * maps[t][n]);
            }
          }
        }
      }
      for (int n = 0; n < GROUP; n++)
        fv_store(scores + (group * GROUP + n) * s->columns + start, fv_sums(sums + n * L * L));
    }
  }
}

/* out = sum over slots of p[slot] * the slot's vector. ahead: where out goes, and far's. */
FV_INLINE void mix_body(const struct problem *s, const float *p, const float *const *far,
                        const float *weight, const float *bias, int chunks, float *out,
                        const struct ahead ahead[2], int kernel_height, int kernel_width) {
  for (int chunk = 0; chunk < chunks; chunk++)
    for (int group = 0; group < s->groups; group++) {
      const int64_t part = group * chunks + chunk;
      const float *w = weight + part * s->taps * GROUP * L, *b = bias + part * GROUP * L;
      const float *p_group = p + group * GROUP * s->columns;
      for (int64_t x = 0; x < s->width; x += TILE) {
        fv_f maps[TILE][GROUP];
        convolve(far, (chunk * s->pitch + x) * L, w, b, kernel_height, kernel_width, maps);
        for (int t = 0; t < TILE; t++) {
          if (!group) fetch_to_write(ahead[0], x + t, chunk), fetch(ahead[1], x + t, chunk);
          float *to = out + (chunk * s->columns + x + t) * L;
          fv_f sum = group ? fv_load(to) : (fv_f){0};
          for (int n = 0; n < GROUP; n++) sum += maps[t][n] * p_group[n * s->columns + x + t];
          fv_store(to, sum);
        }
      }
    }
}

/* With weights by taps. `mix`: d_near = sum over slots n of p[n] * the slot's vector, which is near's
 * gradient where p is that of the scores. Always: the lines d_far gain near's share, for those taps
 * whose row of the window is in [first, last). ahead: of near and far, if `mix`, and where the
 * gradients that this row completes go: far's and, if `mix`, near's. */
FV_INLINE void blend_body(const struct problem *s, const float *p, const float *near,
                          const float *const *far, const float *weight, const float *bias,
                          int chunks, int first, int last, float *d_near, float *const *d_far,
                          const struct ahead *ahead, bool mix, int kernel_width, int taps) {
  for (int chunk = 0; chunk < chunks; chunk++)
    for (int group = 0; group * GROUP < taps; group++) {
      const float *w_part = weight + (int64_t)(group * chunks + chunk) * s->slots * GROUP * L;
      for (int64_t x = 0; x < s->width; x += TILE) {
        const int64_t at = (chunk * s->columns + x) * L, far_at = (chunk * s->pitch + x) * L;
        fv_f blend[TILE][GROUP] = {{{0}}}, sum[TILE] = {{0}}, query[TILE];
        const float *w = w_part;
        for (int n = 0; n < s->slots; n++, w += GROUP * L) {
          const float *probability = p + n * s->columns + x;
          for (int j = 0; j < GROUP; j++) {
            fv_f tap = fv_load(w + j * L);
            if (TILE > 1) KEEP(tap);
            for (int t = 0; t < TILE; t++) blend[t][j] += tap * probability[t];
          }
        }
        for (int t = 0; t < TILE; t++) {
          query[t] = fv_load(near + at + t * L);
          if (mix && group) sum[t] = fv_load(d_near + at + t * L);
          if (group) continue;
          for (int i = 0; i < 2 && mix; i++) fetch(ahead[i], x + t, chunk);
          for (int i = 2; i < (mix ? 4 : 3); i++) fetch_to_write(ahead[i], x + t, chunk);
        }
        for (int j = 0; j < GROUP && group * GROUP + j < taps; j++) {
          const int row = (group * GROUP + j) / kernel_width;
          const int column = (group * GROUP + j) % kernel_width;
          for (int t = 0; t < TILE; t++) {
            const int64_t there = far_at + (column + t) * L;
            if (mix) sum[t] += blend[t][j] * fv_load(far[row] + there);
            if (row < first || row >= last) continue;
            fv_store(d_far[row] + there, fv_load(d_far[row] + there) + blend[t][j] * query[t]);
          }
        }
        if (mix)
          for (int t = 0; t < TILE; t++) fv_store(d_near + at + t * L, sum[t]);
      }
    }
  if (!mix) return;
  for (int group = 0; group < s->groups; group++)
    for (int chunk = 0; chunk < chunks; chunk++, bias += GROUP * L)
      for (int64_t x = 0; x < s->width; x++) {
        float *to = d_near + (chunk * s->columns + x) * L;
        fv_f sum = fv_load(to);
        for (int n = 0; n < GROUP; n++)
          sum += fv_load(bias + n * L) * p[(group * GROUP + n) * s->columns + x];
        fv_store(to, sum);
      }
}

/* d_weight[tap][slot] += sum over columns of p[slot] * near * far, for `count` taps from `first` on;
 * far null stands for the bias, whose shifted map is one everywhere. */
FV_INLINE void weight_taps(const struct problem *s, const float *p, const float *near,
                           const float *const *far, int64_t far_at, int first, int count,
                           float *d_weight) {
  fv_f sum[TAP_BLOCK][GROUP];
  for (int j = 0; j < count; j++)
    for (int n = 0; n < GROUP; n++) sum[j][n] = fv_load(d_weight + (j * GROUP + n) * L);
  const float *from[TAP_BLOCK];
  for (int j = 0; j < count && far; j++)
    from[j] = far[(first + j) / s->kernel_width] + far_at + (first + j) % s->kernel_width * L;
  for (int64_t x = 0; x < s->width; x++) {
    const fv_f query = fv_load(near + x * L);
    fv_f product[TAP_BLOCK];
    for (int j = 0; j < count; j++) product[j] = far ? query * fv_load(from[j] + x * L) : query;
    for (int n = 0; n < GROUP; n++) {
      fv_f probability = fv_set(p[n * s->columns + x]);
      KEEP(probability);
      for (int j = 0; j < count; j++) sum[j][n] += probability * product[j];
    }
  }
  for (int j = 0; j < count; j++)
    for (int n = 0; n < GROUP; n++) fv_store(d_weight + (j * GROUP + n) * L, sum[j][n]);
}

/* 3x3 gets bodies of its own: with the taps known, the loops over them unroll. */
static inline bool three_by_three(const struct problem *s) {
  return s->kernel_height == 3 && s->kernel_width == 3;
}

static void score_row(const struct problem *s, const float *near, const float *const *far,
                      struct packed w, int64_t head, int chunks, float *sums, float *scores,
                      const struct ahead ahead[2]) {
  const float *bias = w.bias + head * bias_size(s, chunks);
  if (three_by_three(s))
    score_body(s, near, far, w.weight, bias, chunks, sums, scores, ahead, 3, 3);
  else
    score_body(s, near, far, w.weight, bias, chunks, sums, scores, ahead, s->kernel_height,
               s->kernel_width);
}

#endif
