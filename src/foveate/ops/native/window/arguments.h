/* The arguments of window attention. Absent tensors have address 0. */
#ifndef FOVEATE_WINDOW_ARGUMENTS_H
#define FOVEATE_WINDOW_ARGUMENTS_H

#include "../common/arguments.h"

/* A window has window_h x window_w cells; windows_h x windows_w of them tile the map, which they
 * may overhang; if `spread`, a window's cells are not neighbours but windows_h and windows_w apart.
 * Channels lie side by side. The bias is [head][key][query] of float32, and so is its gradient;
 * out and the gradients are contiguous.
 */
#define fv_window_arguments_fields(FIELD, S) \
  FIELD(S, fv_run, run)                      \
  FIELD(S, fv_view, q)                       \
  FIELD(S, fv_view, k)                       \
  FIELD(S, fv_view, v)                       \
  FIELD(S, fv_view, grad_out)                \
  FIELD(S, int64_t, batch)                   \
  FIELD(S, int64_t, height)                  \
  FIELD(S, int64_t, width)                   \
  FIELD(S, int64_t, heads)                   \
  FIELD(S, int64_t, dim)                     \
  FIELD(S, int64_t, value_dim)               \
  FIELD(S, int64_t, window_h)                \
  FIELD(S, int64_t, window_w)                \
  FIELD(S, int64_t, windows_h)               \
  FIELD(S, int64_t, windows_w)               \
  FIELD(S, int64_t, shift_h)                 \
  FIELD(S, int64_t, shift_w)                 \
  FIELD(S, int64_t, spread)                  \
  FIELD(S, int64_t, storage)                 \
  FIELD(S, const float *, bias)              \
  FIELD(S, void *, out)                      \
  FIELD(S, void *, dq)                       \
  FIELD(S, void *, dk)                       \
  FIELD(S, void *, dv)                       \
  FIELD(S, float *, d_bias)
FV_ARGUMENTS(fv_window_arguments);

#endif
