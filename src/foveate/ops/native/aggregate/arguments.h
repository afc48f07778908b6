/* The arguments of local aggregation. Absent tensors have address 0. */
#ifndef FOVEATE_AGGREGATE_ARGUMENTS_H
#define FOVEATE_AGGREGATE_ARGUMENTS_H

#include "../common/arguments.h"

/* Values (B, H, W, share * groups) and grad_out of the same shape are float32 with channels side by
 * side; channel c has the weights of group c % groups. Weights (B, H, W, taps, groups), where the
 * view's heads are taps, are of `storage`; if `normalize` they are logits. The probabilities of
 * these (B, H, W, taps, groups) are float32; a forward writes them where they have an address, a
 * backward reads them. out, d_values (float32) and d_weights (of `storage`) are contiguous.
 */
#define fv_aggregate_arguments_fields(FIELD, S) \
  FIELD(S, fv_run, run)                         \
  FIELD(S, fv_view, values)                     \
  FIELD(S, fv_view, weights)                    \
  FIELD(S, fv_view, grad_out)                   \
  FIELD(S, int64_t, batch)                      \
  FIELD(S, int64_t, height)                     \
  FIELD(S, int64_t, width)                      \
  FIELD(S, int64_t, share)                      \
  FIELD(S, int64_t, groups)                     \
  FIELD(S, int64_t, kernel_h)                   \
  FIELD(S, int64_t, kernel_w)                   \
  FIELD(S, int64_t, dilation_h)                 \
  FIELD(S, int64_t, dilation_w)                 \
  FIELD(S, int64_t, border)                     \
  FIELD(S, int64_t, normalize)                  \
  FIELD(S, int64_t, storage)                    \
  FIELD(S, float *, probabilities)              \
  FIELD(S, float *, out)                        \
  FIELD(S, float *, d_values)                   \
  FIELD(S, void *, d_weights)
FV_ARGUMENTS(fv_aggregate_arguments);

#endif
