/* The arguments of slide attention. Absent tensors have address 0. */
#ifndef FOVEATE_SLIDE_ARGUMENTS_H
#define FOVEATE_SLIDE_ARGUMENTS_H

#include "../common/arguments.h"

/* Weights (shifts, taps, D) and biases (heads, shifts, D), whose stride over heads is 0 where the
 * heads share them, are float32; so are the probabilities (B, heads, shifts, H, W), before dropout,
 * which the forward writes where they have an address and the backward reads. out and all
 * gradients are contiguous; those of the weights all have an address or none has.
 */
#define fv_slide_arguments_fields(FIELD, S) \
  FIELD(S, fv_run, run)                     \
  FIELD(S, fv_view, q)                      \
  FIELD(S, fv_view, k)                      \
  FIELD(S, fv_view, v)                      \
  FIELD(S, fv_view, grad_out)               \
  FIELD(S, const float *, key_weight)       \
  FIELD(S, const float *, key_bias)         \
  FIELD(S, const float *, value_weight)     \
  FIELD(S, const float *, value_bias)       \
  FIELD(S, int64_t, key_bias_stride)        \
  FIELD(S, int64_t, value_bias_stride)      \
  FIELD(S, int64_t, batch)                  \
  FIELD(S, int64_t, height)                 \
  FIELD(S, int64_t, width)                  \
  FIELD(S, int64_t, heads)                  \
  FIELD(S, int64_t, dim)                    \
  FIELD(S, int64_t, value_dim)              \
  FIELD(S, int64_t, kernel_h)               \
  FIELD(S, int64_t, kernel_w)               \
  FIELD(S, int64_t, storage)                \
  FIELD(S, float *, probabilities)          \
  FIELD(S, void *, out)                     \
  FIELD(S, void *, dq)                      \
  FIELD(S, void *, dk)                      \
  FIELD(S, void *, dv)                      \
  FIELD(S, float *, d_key_weight)           \
  FIELD(S, float *, d_key_bias)             \
  FIELD(S, float *, d_value_weight)         \
  FIELD(S, float *, d_value_bias)
FV_ARGUMENTS(fv_slide_arguments);

#endif
