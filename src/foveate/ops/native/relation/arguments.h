/* The arguments of local relations. Absent tensors have address 0. */
#ifndef FOVEATE_RELATION_ARGUMENTS_H
#define FOVEATE_RELATION_ARGUMENTS_H

#include "../common/arguments.h"

/* What is made of a position's query q and the keys k of its taps: the differences q - k,
 * (taps, dim), or both side by side, (dim of q, then of keys dim x taps, channel by channel).
 */
#define RELATIONS(CONSTANT)        \
  CONSTANT(RELATION, DIFFERENCE)   \
  CONSTANT(RELATION, CONCATENATION)
enum { RELATIONS(FV_ENUMERATOR) };

/* q and k (B, H, W, dim) are float32 with channels side by side; out and its gradient, contiguous,
 * are of `storage`; dq and dk, contiguous, are float32. Where scale and shift have an address, out
 * is relu(scale * relation + shift): a number for each channel of a difference, for each of all
 * numbers of a concatenation; so are their gradients, which both have an address or neither has.
 */
#define fv_relation_arguments_fields(FIELD, S) \
  FIELD(S, fv_run, run)                        \
  FIELD(S, fv_view, q)                         \
  FIELD(S, fv_view, k)                         \
  FIELD(S, int64_t, batch)                     \
  FIELD(S, int64_t, height)                    \
  FIELD(S, int64_t, width)                     \
  FIELD(S, int64_t, dim)                       \
  FIELD(S, int64_t, kernel_h)                  \
  FIELD(S, int64_t, kernel_w)                  \
  FIELD(S, int64_t, dilation_h)                \
  FIELD(S, int64_t, dilation_w)                \
  FIELD(S, int64_t, border)                    \
  FIELD(S, int64_t, relation)                  \
  FIELD(S, int64_t, storage)                   \
  FIELD(S, const float *, scale)               \
  FIELD(S, const float *, shift)               \
  FIELD(S, void *, out)                        \
  FIELD(S, void *, grad_out)                   \
  FIELD(S, float *, dq)                        \
  FIELD(S, float *, dk)                        \
  FIELD(S, float *, d_scale)                   \
  FIELD(S, float *, d_shift)
FV_ARGUMENTS(fv_relation_arguments);

#endif
