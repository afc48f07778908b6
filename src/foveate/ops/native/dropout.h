/* The hash of foveate/ops/_dropout.py, which says what it is. */
#ifndef FOVEATE_DROPOUT_H
#define FOVEATE_DROPOUT_H

#include "simd.h"

typedef struct {
  uint32_t low, high, threshold;
  float scale; /* of the kept weights: 1 / (1 - p) */
} fv_dropout;

FV_INLINE fv_u fv_mix(fv_u x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

/* What queries contribute to the hash; computed once for all their slots. */
FV_INLINE fv_u fv_dropout_query(const fv_dropout *d, fv_u query) { return fv_mix(query + d->low); }

/* All ones in the lanes whose weight stays. */
FV_INLINE fv_i fv_dropout_kept(const fv_dropout *d, fv_u query_word, fv_u slot) {
  fv_u word = fv_mix(query_word + slot * 0x9E3779B9u + d->high);
  return (fv_i)(word >= ((fv_u){0} + d->threshold));
}

#endif
