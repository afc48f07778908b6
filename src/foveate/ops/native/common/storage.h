/* How tensors keep numbers: float32, bfloat16 or float16. The kernels compute in float32 and
 * convert where they read and write. Addresses are of bytes and need no alignment.
 */
#ifndef FOVEATE_STORAGE_H
#define FOVEATE_STORAGE_H

#include "arguments.h"
#include "simd.h"

typedef uint16_t fv_h __attribute__((vector_size(FV_LANES * 2)));

FV_INLINE int fv_bytes(int storage) { return storage == STORAGE_FLOAT32 ? 4 : 2; }

FV_INLINE fv_u fv_where(fv_i mask, fv_u a, fv_u b) { return ((fv_u)mask & a) | (~(fv_u)mask & b); }

FV_INLINE fv_f fv_from_half(fv_h half) {
#if defined(__F16C__) && FV_LANES == 8
  return _mm256_cvtph_ps((__m128i)half);
#elif defined(__AVX512F__) && FV_LANES == 16
  return _mm512_cvtph_ps((__m256i)half);
#elif defined(__aarch64__)
  return (fv_f)vcvt_f32_f16((float16x4_t)half);
#else
  const fv_u bits = __builtin_convertvector(half, fv_u);
  const fv_u magnitude = (bits & 0x7FFF) << 13; /* of the number times 2^-112 */
  const fv_u special = (fv_u)((fv_i)magnitude >= 0x0F800000) & 0x7F800000; /* infinity, NaN */
  return (fv_f)((fv_u)((fv_f)magnitude * 0x1p112f) | special | (bits & 0x8000) << 16);
#endif
}

/* Rounded to nearest, ties to even; so is fv_to_bfloat16. */
FV_INLINE fv_h fv_to_half(fv_f x) {
#if defined(__F16C__) && FV_LANES == 8
  return (fv_h)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX512F__) && FV_LANES == 16
  return (fv_h)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
  return (fv_h)vcvt_f16_f32((float32x4_t)x);
#else
  const fv_u bits = (fv_u)x, magnitude = bits & 0x7FFFFFFF;
  const fv_i size = (fv_i)magnitude;
  const fv_u normal = (magnitude + 0xFFF + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  const fv_u subnormal = (fv_u)((fv_f)magnitude + 0.5f) - 0x3F000000; /* 0.5 has their last place */
  fv_u half = fv_where(size < 113 << 23, subnormal, normal);
  half = fv_where(size >= 0x477FF000, (fv_u){0} + 0x7C00, half);
  half = fv_where(size > 0x7F800000, (fv_u){0} + 0x7E00, half);
  return __builtin_convertvector(half | (bits >> 16 & 0x8000), fv_h);
#endif
}

FV_INLINE fv_f fv_from_bfloat16(fv_h x) {
#if defined(__aarch64__)
  return (fv_f)vshll_n_u16((uint16x4_t)x, 16);
#else
  return (fv_f)(__builtin_convertvector(x, fv_u) << 16);
#endif
}

FV_INLINE fv_h fv_to_bfloat16(fv_f x) {
  const fv_u bits = (fv_u)x, half_way = 0x7FFF + (bits >> 16 & 1);
  const fv_i is_nan = x != x;
#if defined(__aarch64__)
  const uint16x4_t rounded = vaddhn_u32((uint32x4_t)bits, (uint32x4_t)half_way);
  const uint16x4_t quiet = vshrn_n_u32((uint32x4_t)(bits | 0x40 << 16), 16);
  return (fv_h)vbsl_u16(vmovn_u32((uint32x4_t)is_nan), quiet, rounded);
#else
  const fv_u rounded = (bits + half_way) >> 16;
  return __builtin_convertvector(fv_where(is_nan, bits >> 16 | 0x40, rounded), fv_h);
#endif
}

/* `storage` of these is known when they are inlined. */
FV_INLINE fv_f fv_read(const char *p, const int storage) {
  if (storage == STORAGE_FLOAT32) {
    fv_f x;
    memcpy(&x, p, sizeof x);
    return x;
  }
  fv_h x;
  memcpy(&x, p, sizeof x);
  return storage == STORAGE_FLOAT16 ? fv_from_half(x) : fv_from_bfloat16(x);
}

FV_INLINE void fv_write(char *p, fv_f x, const int storage) {
  if (storage == STORAGE_FLOAT32) {
    memcpy(p, &x, sizeof x);
    return;
  }
  const fv_h y = storage == STORAGE_FLOAT16 ? fv_to_half(x) : fv_to_bfloat16(x);
  memcpy(p, &y, sizeof y);
}

FV_INLINE float fv_read_one(const char *p, const int storage) {
  if (storage == STORAGE_FLOAT32) {
    float x;
    memcpy(&x, p, sizeof x);
    return x;
  }
  uint16_t bits;
  memcpy(&bits, p, sizeof bits);
  const fv_h x = {bits};
  return (storage == STORAGE_FLOAT16 ? fv_from_half(x) : fv_from_bfloat16(x))[0];
}

FV_INLINE void fv_write_one(char *p, float x, const int storage) {
  if (storage == STORAGE_FLOAT32) {
    memcpy(p, &x, sizeof x);
    return;
  }
  const uint16_t bits =
      (storage == STORAGE_FLOAT16 ? fv_to_half(fv_set(x)) : fv_to_bfloat16(fv_set(x)))[0];
  memcpy(p, &bits, sizeof bits);
}

/* `call` with S, a constant, for the storage: the functions above and those made of them are then
 * compiled once for each.
 */
#define FV_BY_STORAGE(storage, call)            \
  do {                                          \
    if ((storage) == STORAGE_FLOAT32) {         \
      enum { S = STORAGE_FLOAT32 };             \
      call;                                     \
    } else if ((storage) == STORAGE_BFLOAT16) { \
      enum { S = STORAGE_BFLOAT16 };            \
      call;                                     \
    } else {                                    \
      enum { S = STORAGE_FLOAT16 };             \
      call;                                     \
    }                                           \
  } while (0)

#if FV_LANES == FV_BLOCK
/* ---- lanes: one vector's worth of positions, channel by channel --------------------------- */

FV_INLINE void fv_gather_as(const int storage, const char *const *from, float *to, ptrdiff_t step,
                            int channels, float factor) {
  const int size = fv_bytes(storage);
  for (int begin = 0; begin < channels; begin += FV_LANES) {
    /* The last block overlaps the one before, if there are channels for a block at all. */
    const int c = begin + FV_LANES <= channels ? begin : channels - FV_LANES;
    if (c < 0) {
      for (int i = 0; i < FV_LANES; ++i)
        for (int d = 0; d < channels; ++d)
          to[d * step + i] = factor * fv_read_one(from[i] + d * size, storage);
      return;
    }
    fv_f block[FV_LANES];
    for (int i = 0; i < FV_LANES; ++i) block[i] = fv_read(from[i] + c * size, storage) * factor;
    fv_transpose_block(block);
    for (int i = 0; i < FV_LANES; ++i) fv_store(to + (c + i) * step, block[i]);
  }
}

FV_INLINE void fv_scatter_as(const int storage, const float *from, char *to, ptrdiff_t lane,
                             int channels, int lanes, fv_f factor) {
  const int size = fv_bytes(storage);
  for (int begin = 0; begin < channels; begin += FV_LANES) {
    const int c = begin + FV_LANES <= channels ? begin : channels - FV_LANES;
    if (c < 0) {
      for (int i = 0; i < lanes; ++i)
        for (int d = 0; d < channels; ++d)
          fv_write_one(to + i * lane + d * size, factor[i] * from[d * FV_LANES + i], storage);
      return;
    }
    fv_f block[FV_LANES];
    for (int i = 0; i < FV_LANES; ++i) block[i] = fv_load(from + (c + i) * FV_LANES) * factor;
    fv_transpose_block(block);
    for (int i = 0; i < lanes; ++i) fv_write(to + i * lane + c * size, block[i], storage);
  }
}

/* to[c * step + lane] = factor * from[lane][c]. */
static __attribute__((unused)) void fv_gather(int storage, const char *const *from, float *to,
                                              ptrdiff_t step, int channels, float factor) {
  FV_BY_STORAGE(storage, fv_gather_as(S, from, to, step, channels, factor));
}

/* Channel c of `lanes` positions that lie `lane` bytes apart from `to` on: factor * from[c][i]. */
static __attribute__((unused)) void fv_scatter(int storage, const float *from, char *to,
                                               ptrdiff_t lane, int channels, int lanes,
                                               fv_f factor) {
  FV_BY_STORAGE(storage, fv_scatter_as(S, from, to, lane, channels, lanes, factor));
}
#endif

#endif
