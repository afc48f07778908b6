/* The arguments of local attention. Absent tensors have address 0. */
#ifndef FOVEATE_LOCAL_ARGUMENTS_H
#define FOVEATE_LOCAL_ARGUMENTS_H

#include "../common/arguments.h"

/* What queries near the edge see: windows shifted inwards; zeros; nothing; the map's reflection,
 * with which the caller has padded keys, values and mask already.
 */
#define LOCAL_BORDERS(CONSTANT) \
  CONSTANT(BORDER, SHIFT)       \
  CONSTANT(BORDER, ZERO)        \
  CONSTANT(BORDER, MASK)        \
  CONSTANT(BORDER, REFLECT)
enum { LOCAL_BORDERS(FV_ENUMERATOR) };

/* None; a relative table (heads, 2 kernel_h - 1, 2 kernel_w - 1) of float32, contiguous; numbers
 * per query (B, H, W, heads, kernel_h, kernel_w) of which those of a query lie side by side.
 */
#define LOCAL_BIASES(CONSTANT) \
  CONSTANT(BIAS, NONE)         \
  CONSTANT(BIAS, TABLE)        \
  CONSTANT(BIAS, EACH)
enum { LOCAL_BIASES(FV_ENUMERATOR) };

/* Channels lie side by side. out and all gradients are contiguous, as are lse and its gradient
 * (B, H, W, heads), which are float32. The forward writes out and, where it has an address, lse;
 * the backward reads lse and writes dq, dk, dv and, where d_bias has an address, adds to it.
 */
#define fv_local_arguments_fields(FIELD, S) \
  FIELD(S, fv_run, run)                     \
  FIELD(S, fv_view, q)                      \
  FIELD(S, fv_view, k)                      \
  FIELD(S, fv_view, v)                      \
  FIELD(S, fv_view, bias)                   \
  FIELD(S, fv_view, key_mask)               \
  FIELD(S, fv_view, grad_out)               \
  FIELD(S, float *, lse)                    \
  FIELD(S, int64_t, batch)                  \
  FIELD(S, int64_t, height)                 \
  FIELD(S, int64_t, width)                  \
  FIELD(S, int64_t, heads)                  \
  FIELD(S, int64_t, dim)                    \
  FIELD(S, int64_t, value_dim)              \
  FIELD(S, int64_t, key_height)             \
  FIELD(S, int64_t, key_width)              \
  FIELD(S, int64_t, kernel_h)               \
  FIELD(S, int64_t, kernel_w)               \
  FIELD(S, int64_t, dilation_h)             \
  FIELD(S, int64_t, dilation_w)             \
  FIELD(S, int64_t, border)                 \
  FIELD(S, int64_t, bias_kind)              \
  FIELD(S, int64_t, storage)                \
  FIELD(S, int64_t, bias_storage)           \
  FIELD(S, void *, out)                     \
  FIELD(S, const float *, grad_lse)         \
  FIELD(S, void *, dq)                      \
  FIELD(S, void *, dk)                      \
  FIELD(S, void *, dv)                      \
  FIELD(S, void *, d_bias)
FV_ARGUMENTS(fv_local_arguments);

#endif
