/* The arguments of the operators that gates are made of. All numbers are float32; absent tensors
 * have address 0. A map (B, outer, middle, inner) is contiguous, whichever of channels, height and
 * width its axes are.
 */
#ifndef FOVEATE_GATES_ARGUMENTS_H
#define FOVEATE_GATES_ARGUMENTS_H

#include "../common/arguments.h"

/* Views of a plane (B, statistics, two axes) have their image, statistic (head), first (row) and
 * second (column) stride: of what is left when one axis of x is pooled. Going forward they are
 * written, going backward they are the gradients; `largest` asks for the maximum before the mean.
 * Indices of maxima (B, two axes) are float32, too: written where they have an address, and read
 * going backward.
 */
#define fv_axis_pool_arguments_fields(FIELD, S) \
  FIELD(S, fv_view, over_outer)                 \
  FIELD(S, fv_view, over_middle)                \
  FIELD(S, fv_view, over_inner)                 \
  FIELD(S, fv_view, index_outer)                \
  FIELD(S, fv_view, index_middle)               \
  FIELD(S, fv_view, index_inner)                \
  FIELD(S, int64_t, threads)                    \
  FIELD(S, int64_t, batch)                      \
  FIELD(S, int64_t, outer)                      \
  FIELD(S, int64_t, middle)                     \
  FIELD(S, int64_t, inner)                      \
  FIELD(S, int64_t, largest)                    \
  FIELD(S, const float *, x)                    \
  FIELD(S, float *, dx)
FV_ARGUMENTS(fv_axis_pool_arguments);

/* How factors become one. */
#define SCALE_COMBINATIONS(CONSTANT) \
  CONSTANT(COMBINATION, PRODUCT)     \
  CONSTANT(COMBINATION, MEAN)        \
  CONSTANT(COMBINATION, SIGN)
enum { SCALE_COMBINATIONS(FV_ENUMERATOR) };

/* Factors and their gradients have an image stride and those along outer (row), middle (column) and
 * inner (channel), 0 where they are the same for all. `out` is the product, going backward the
 * gradient of x.
 */
#define fv_scale_arguments_fields(FIELD, S) \
  FIELD(S, fv_view, first)                  \
  FIELD(S, fv_view, second)                 \
  FIELD(S, fv_view, third)                  \
  FIELD(S, fv_view, d_first)                \
  FIELD(S, fv_view, d_second)               \
  FIELD(S, fv_view, d_third)                \
  FIELD(S, int64_t, threads)                \
  FIELD(S, int64_t, batch)                  \
  FIELD(S, int64_t, outer)                  \
  FIELD(S, int64_t, middle)                 \
  FIELD(S, int64_t, inner)                  \
  FIELD(S, int64_t, combination)            \
  FIELD(S, const float *, x)                \
  FIELD(S, const float *, grad_out)         \
  FIELD(S, float *, out)
FV_ARGUMENTS(fv_scale_arguments);

/* Views of maps (B, H, W, channels) have the channels' stride as that of heads, and neighbouring
 * columns. The weight (out, in, kh, kw) and all results are contiguous.
 */
#define fv_narrow_conv_arguments_fields(FIELD, S) \
  FIELD(S, fv_view, x)                            \
  FIELD(S, fv_view, grad_out)                     \
  FIELD(S, int64_t, threads)                      \
  FIELD(S, int64_t, batch)                        \
  FIELD(S, int64_t, height)                       \
  FIELD(S, int64_t, width)                        \
  FIELD(S, int64_t, in_channels)                  \
  FIELD(S, int64_t, out_channels)                 \
  FIELD(S, int64_t, kernel_h)                     \
  FIELD(S, int64_t, kernel_w)                     \
  FIELD(S, const float *, weight)                 \
  FIELD(S, float *, out)                          \
  FIELD(S, float *, dx)                           \
  FIELD(S, float *, d_weight)
FV_ARGUMENTS(fv_narrow_conv_arguments);

#endif
