/* Vectors of floats: arithmetic, exp and log, softmax down columns, transposing copies.
 *
 * Written with the vector extensions that GCC and Clang have in common, so that one source
 * serves every instruction set. FV_LANES floats make a vector: eight where there are 256-bit
 * registers, four elsewhere. Not sixteen: on a Zen 4 core, with three rows and seven taps, the
 * products of local attention reach 70 GFLOP/s in sixteen lanes and 115 in eight. A 512-bit
 * multiply-add takes both of its pipes, and unaligned 64-byte loads always cross a cache line.
 */
#ifndef FOVEATE_SIMD_H
#define FOVEATE_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "build.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef FV_LANES
#if defined(__AVX2__)
#define FV_LANES 8
#else
#define FV_LANES 4
#endif
#endif
#define L FV_LANES

typedef float fv_f __attribute__((vector_size(FV_LANES * 4)));
typedef int32_t fv_i __attribute__((vector_size(FV_LANES * 4)));
typedef uint32_t fv_u __attribute__((vector_size(FV_LANES * 4)));
typedef float fv_f_unaligned __attribute__((vector_size(FV_LANES * 4), aligned(4), may_alias));

FV_INLINE fv_f fv_load(const float *p) { return *(const fv_f_unaligned *)p; }
FV_INLINE void fv_store(float *p, fv_f x) { *(fv_f_unaligned *)p = x; }
FV_INLINE fv_f fv_set(float x) { return x - (fv_f){0}; }

/* Lane by lane: where(mask) a else b; mask lanes are all ones or all zeros, as comparisons give. */
FV_INLINE fv_f fv_select(fv_i mask, fv_f a, fv_f b) {
#if FV_LANES == 8
  return _mm256_blendv_ps(b, a, (fv_f)mask);
#elif defined(__aarch64__)
  return (fv_f)vbslq_f32((uint32x4_t)mask, (float32x4_t)a, (float32x4_t)b);
#else
  return (fv_f)((mask & (fv_i)a) | (~mask & (fv_i)b));
#endif
}

/* a where a > b, else b: NaN in b is kept, NaN in a may be lost. */
FV_INLINE fv_f fv_max(fv_f a, fv_f b) {
#if FV_LANES == 8
  return _mm256_max_ps(a, b);
#elif defined(__aarch64__)
  return (fv_f)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
#else
  return fv_select(a > b, a, b);
#endif
}

/* Lane l of the result is p[from[l]], where from[l] < FV_LANES. */
FV_INLINE fv_f fv_pick(const float *p, fv_i from) {
#if FV_LANES == 8
  return _mm256_permutevar8x32_ps(fv_load(p), (__m256i)from);
#elif defined(__aarch64__)
  const fv_u bytes = (fv_u)from * 0x04040404u + 0x03020100u; /* four of each lane */
  return (fv_f)vqtbl1q_u8((uint8x16_t)fv_load(p), (uint8x16_t)bytes);
#else
  return (fv_f){p[from[0]], p[from[1]], p[from[2]], p[from[3]]};
#endif
}

/* 2^x for x <= 127, within 1e-7 relative; 0 below -125, -inf included; NaN stays NaN. */
FV_INLINE fv_f fv_exp2(fv_f x) {
#if defined(__AVX512VL__) && FV_LANES == 8
  /* 0 for -inf, whose fraction is NaN, and below -125, where results would be denormal and slow.
   */
  const __mmask8 some = _mm256_cmp_ps_mask(x, fv_set(-125.f), _CMP_NLT_UQ);
  const fv_f rounded = _mm256_roundscale_ps(x, 0), f = x - rounded;
#else
  const fv_f low = fv_set(-125.f), magic = fv_set(12582912.f); /* 1.5 * 2^23: adding it rounds */
  fv_f t = fv_max(low, x);
  fv_f rounded = t + magic;
  fv_f f = t - (rounded - magic);
#endif
  fv_f p = f * 1.3276471959e-03f + 9.6755415026e-03f;
  p = p * f + 5.5507132751e-02f;
  p = p * f + 2.4022119721e-01f;
  p = p * f + 6.9314696706e-01f;
  p = p * f + 1.0000000717e+00f;
#if defined(__AVX512VL__) && FV_LANES == 8
  return _mm256_maskz_scalef_ps(some, p, rounded);
#else
  fv_f y = (fv_f)((fv_i)p + ((fv_i)rounded << 23));
  return fv_select(x < low, (fv_f){0}, y);
#endif
}

#define FV_LOG2E 1.44269504088896341f
#define FV_LN2 0.69314718055994531f

/* e^x for x <= 88. */
FV_INLINE fv_f fv_exp(fv_f x) { return fv_exp2(x * FV_LOG2E); }

/* log2(x) for positive normal x, within 2e-7 absolute of it per doubling; else meaningless. */
FV_INLINE fv_f fv_log2(fv_f x) {
  fv_i bits = (fv_i)x;
  fv_i exponent = (bits - 0x3F3504F3) >> 23; /* of x / sqrt(1/2), so that m is near 1 */
  fv_f m = (fv_f)(bits - (exponent << 23));
  fv_f s = (m - 1.f) / (m + 1.f), s2 = s * s;
  fv_f p = s2 * 0.3205989f + 0.41219858f;
  p = p * s2 + 0.57707802f;
  p = p * s2 + 0.96179669f;
  p = p * s2 + 2.88539008f;
  return s * p + __builtin_convertvector(exponent, fv_f);
}

/* Have the cache line at p in the second-level cache soon, to read or to write it. Call these from
 * inlined functions only: GCC drops calls of a function that does nothing but prefetch.
 */
FV_INLINE void fv_prefetch(const float *p) { __builtin_prefetch(p, 0, 2); }
FV_INLINE void fv_prefetch_write(const float *p) { __builtin_prefetch(p, 1, 3); }

/* Lane l of the result is the sum of the lanes of vector l of x: FV_LANES vectors, one after the
 * other. */
FV_INLINE fv_f fv_sums(const float *x) {
#if defined(__aarch64__)
  const float32x4_t two = vpaddq_f32(vld1q_f32(x), vld1q_f32(x + 4));
  return (fv_f)vpaddq_f32(two, vpaddq_f32(vld1q_f32(x + 8), vld1q_f32(x + 12)));
#else
#define FV_FOLD(count, low, high)                                       \
  for (int i = 0; i < FV_LANES / (count); i++)                          \
  v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], FV_LIST low) + \
         __builtin_shufflevector(v[2 * i], v[2 * i + 1], FV_LIST high)
#define FV_LIST(...) __VA_ARGS__
  fv_f v[FV_LANES];
  for (int i = 0; i < FV_LANES; i++) v[i] = fv_load(x + i * FV_LANES);
#if FV_LANES == 16
  FV_FOLD(2, (0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
          (1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31));
  FV_FOLD(4, (0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
          (2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
  FV_FOLD(8, (0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
          (4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31));
  FV_FOLD(16, (0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
          (8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
#elif FV_LANES == 8
  FV_FOLD(2, (0, 8, 2, 10, 4, 12, 6, 14), (1, 9, 3, 11, 5, 13, 7, 15));
  FV_FOLD(4, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15));
  FV_FOLD(8, (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15));
#else
  FV_FOLD(2, (0, 4, 2, 6), (1, 5, 3, 7));
  FV_FOLD(4, (0, 1, 4, 5), (2, 3, 6, 7));
#endif
#undef FV_FOLD
#undef FV_LIST
  return v[0];
#endif
}

/* ---- softmax down a column, lane by lane ----------------------------------------------------- */

/* 2^x of a column of `count` vectors `step` floats apart, less its largest, in place; returns their
 * sum and sets *top to what was subtracted, which is 0 where all are -inf.
 */
FV_INLINE fv_f fv_exp2_column(float *column, ptrdiff_t step, int count, fv_f *top) {
  fv_f largest = fv_load(column), other = largest;
  int i = 1;
  for (; i + 2 <= count; i += 2) {
    largest = fv_max(fv_load(column + i * step), largest);
    other = fv_max(fv_load(column + (i + 1) * step), other);
  }
  if (i < count) largest = fv_max(fv_load(column + i * step), largest);
  largest = fv_max(largest, other);
  largest = fv_select(largest == -INFINITY, (fv_f){0}, largest);
  fv_f sum = {0}, more = {0};
  for (i = 0; i + 2 <= count; i += 2) {
    const fv_f one = fv_exp2(fv_load(column + i * step) - largest);
    const fv_f two = fv_exp2(fv_load(column + (i + 1) * step) - largest);
    sum += one;
    more += two;
    fv_store(column + i * step, one);
    fv_store(column + (i + 1) * step, two);
  }
  if (i < count) {
    const fv_f one = fv_exp2(fv_load(column + i * step) - largest);
    sum += one;
    fv_store(column + i * step, one);
  }
  *top = largest;
  return sum + more;
}

/* From p, a column of `count` weights `step` floats apart that a softmax gave, and their gradients:
 * those of the logits, p (gradient - sum of p gradient), in place of the latter.
 */
FV_INLINE void fv_softmax_backward(const float *p, float *gradient, ptrdiff_t step, int count) {
  fv_f mean = {0};
  for (int i = 0; i < count; ++i) mean += fv_load(p + i * step) * fv_load(gradient + i * step);
  for (int i = 0; i < count; ++i) {
    float *at = gradient + i * step;
    fv_store(at, fv_load(p + i * step) * (fv_load(at) - mean));
  }
}

/* ---- transposing copies ---------------------------------------------------------------- */

#if FV_LANES == 8
#define FV_BLOCK 8
typedef fv_f fv_b;
#else
#define FV_BLOCK 4
typedef float fv_b __attribute__((vector_size(16)));
#endif
typedef float fv_b_unaligned __attribute__((vector_size(FV_BLOCK * 4), aligned(4), may_alias));

/* Transpose FV_BLOCK vectors in registers. */
FV_INLINE void fv_transpose_block(fv_b *r) {
#if FV_BLOCK == 8
  fv_b t[8], u[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      fv_b a = t[4 * i + j], b = t[4 * i + 2 + j];
      u[4 * i + 2 * j] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
      u[4 * i + 2 * j + 1] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#else
  fv_b a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
  fv_b b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  fv_b c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  fv_b d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
#endif
}

/* to[c * to_stride + r] = factor * from[r * from_stride + c] for r < rows, c < columns. */
static __attribute__((unused)) void fv_transpose(const float *from, ptrdiff_t from_stride,
                                                 float *to, ptrdiff_t to_stride, int rows,
                                                 int columns, float factor) {
  const fv_b scale = factor - (fv_b){0};
  int r = 0;
  for (; r + FV_BLOCK <= rows; r += FV_BLOCK) {
    int c = 0;
    for (; c + FV_BLOCK <= columns; c += FV_BLOCK) {
      fv_b block[FV_BLOCK];
      for (int i = 0; i < FV_BLOCK; ++i)
        block[i] = *(const fv_b_unaligned *)(from + (r + i) * from_stride + c) * scale;
      fv_transpose_block(block);
      for (int i = 0; i < FV_BLOCK; ++i)
        *(fv_b_unaligned *)(to + (c + i) * to_stride + r) = block[i];
    }
    for (; c < columns; ++c)
      for (int i = 0; i < FV_BLOCK; ++i)
        to[c * to_stride + r + i] = factor * from[(r + i) * from_stride + c];
  }
  for (; r < rows; ++r)
    for (int c = 0; c < columns; ++c) to[c * to_stride + r] = factor * from[r * from_stride + c];
}

#endif
