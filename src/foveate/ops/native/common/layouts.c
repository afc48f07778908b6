/* The table of what Python must agree with: kernels, structs field by field, and constants. */
#include <stddef.h>

#include "../aggregate/arguments.h"
#include "../gates/arguments.h"
#include "../local/arguments.h"
#include "../relation/arguments.h"
#include "../slide/arguments.h"
#include "../window/arguments.h"
#include "build.h"

/* A field of a struct: its kind, offset and size in bytes. A struct itself: no name, its size. A
 * constant of a group: its value in place of an offset. A kernel: its arguments in place of a kind.
 */
typedef struct {
  const char *group, *name, *kind;
  int64_t offset, size;
} fv_row;

/* clang-format off: lists of rows are no code to it. */

/* As foveate/ops/native/interface.py writes kinds. */
#define KIND_OF(field)         \
  _Generic(field, int64_t      \
           : "q", double       \
           : "d", fv_view      \
           : "fv_view", fv_run \
           : "fv_run", default \
           : "P")
#define MEMBER(S, field) ((S *)0)->field
#define FIELD_ROW(S, type, field) \
  {#S, #field, KIND_OF(MEMBER(S, field)), offsetof(S, field), sizeof(MEMBER(S, field))},
#define STRUCT_ROWS(S) {#S, "", "", 0, sizeof(S)}, S##_fields(FIELD_ROW, S)
#define CONSTANT_ROW(group, name) {#group, #name, "", group##_##name, 0},
#define KERNEL(name, arguments) {"KERNEL", #name, #arguments, 0, 0},

static const fv_row rows[] = {STRUCT_ROWS(fv_view) STRUCT_ROWS(fv_run)
                                  STRUCT_ROWS(fv_local_arguments) STRUCT_ROWS(fv_slide_arguments)
                                      STRUCT_ROWS(fv_window_arguments)
                                          STRUCT_ROWS(fv_aggregate_arguments)
                                              STRUCT_ROWS(fv_relation_arguments)
                                                  STRUCT_ROWS(fv_axis_pool_arguments)
                                                      STRUCT_ROWS(fv_scale_arguments)
                                                          STRUCT_ROWS(fv_narrow_conv_arguments)
                                                  STORAGES(CONSTANT_ROW)
                                                      LOCAL_BORDERS(CONSTANT_ROW)
                                                          LOCAL_BIASES(CONSTANT_ROW)
                                                              TAP_BORDERS(CONSTANT_ROW)
                                                                  RELATIONS(CONSTANT_ROW)
                                                                      SCALE_COMBINATIONS(CONSTANT_ROW)
#include "kernels.inc"
                                              {0}};
/* clang-format on */

/* The rows; one without a group ends them. */
FV_EXPORT const fv_row *foveate_layouts(void) { return rows; }
