/* The hash of foveate/ops/_dropout.py, which says what it is. */
#ifndef FOVEATE_DROPOUT_H
#define FOVEATE_DROPOUT_H

#include "arguments.h"
#include "simd.h"

typedef struct {
  uint32_t low, high, threshold;
  float scale; /* of the kept weights: 1 / (1 - p) */
} fv_dropout;

FV_INLINE fv_dropout fv_dropout_of(const fv_run *run) {
  return (fv_dropout){(uint32_t)run->seed_low, (uint32_t)run->seed_high, (uint32_t)run->threshold,
                      (float)run->keep_scale};
}

FV_INLINE fv_u fv_mix(fv_u x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

/* What queries contribute to the hash; computed once for all their taps. */
FV_INLINE fv_u fv_dropout_query(const fv_dropout *d, fv_u query) { return fv_mix(query + d->low); }

/* All ones in the lanes whose weight stays. */
FV_INLINE fv_i fv_dropout_kept(const fv_dropout *d, fv_u query_word, uint32_t tap) {
  fv_u word = fv_mix(query_word + ((fv_u){0} + tap) * 0x9E3779B9u + d->high);
  return (fv_i)(word >= ((fv_u){0} + d->threshold));
}

/* Of the queries whose words these are, a column of `count` vectors `step` floats apart: to = from,
 * scaled, where a weight stays, else 0. `taps` are their taps' numbers; NULL: 0, 1, 2, ...
 */
FV_INLINE void fv_drop(const fv_dropout *d, fv_u query_word, const int *taps, int count,
                       const float *from, float *to, ptrdiff_t step) {
  for (int i = 0; i < count; ++i) {
    const fv_i kept = fv_dropout_kept(d, query_word, (uint32_t)(taps ? taps[i] : i));
    fv_store(to + i * step, fv_select(kept, fv_load(from + i * step) * d->scale, (fv_f){0}));
  }
}

#endif
