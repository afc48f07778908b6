/* What the kernels are given. One list of fields makes both the C struct and the rows of the table
 * (layouts.c) with which Python compares its own description, interface.py, when it loads the
 * library. So a field is added in two places that cannot disagree unnoticed: its list here or in
 * a room's arguments.h, and its twin in interface.py.
 *
 * The list of a struct S is the macro S_fields(FIELD, S) of a macro FIELD(S, type, name).
 */
#ifndef FOVEATE_ARGUMENTS_H
#define FOVEATE_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#define FV_MEMBER(S, type, name) type name;
#define FV_ARGUMENTS(structure)              \
  typedef struct {                           \
    structure##_fields(FV_MEMBER, structure) \
  } structure

/* A tensor (B, H, W, heads, D) wherever it lies; strides count elements. Others fit in as well: a
 * mask (B, H, W) has neither heads nor channels, numbers per query and tap have taps for channels.
 */
#define fv_view_fields(FIELD, S) \
  FIELD(S, void *, data)         \
  FIELD(S, int64_t, image)       \
  FIELD(S, int64_t, row)         \
  FIELD(S, int64_t, column)      \
  FIELD(S, int64_t, head)        \
  FIELD(S, int64_t, channel)
FV_ARGUMENTS(fv_view);

/* What every operator takes: threads, dropout (threshold 0: none), the factor of the logits. */
#define fv_run_fields(FIELD, S) \
  FIELD(S, int64_t, threads)    \
  FIELD(S, int64_t, seed_low)   \
  FIELD(S, int64_t, seed_high)  \
  FIELD(S, int64_t, threshold)  \
  FIELD(S, double, scale)       \
  FIELD(S, double, keep_scale)
FV_ARGUMENTS(fv_run);

/* How tensors keep their numbers. */
#define STORAGES(CONSTANT)    \
  CONSTANT(STORAGE, FLOAT32)  \
  CONSTANT(STORAGE, BFLOAT16) \
  CONSTANT(STORAGE, FLOAT16)
#define FV_ENUMERATOR(group, name) group##_##name,
enum { STORAGES(FV_ENUMERATOR) };

/* What taps read beyond a map: nothing, or the map turned round at its last position; where it is
 * too small for that, its nearest position.
 */
#define TAP_BORDERS(CONSTANT) \
  CONSTANT(TAP, ZERO)         \
  CONSTANT(TAP, REFLECT)
enum { TAP_BORDERS(FV_ENUMERATOR) };

#endif
