/* Threads, and the memory that each of them works in. */
#ifndef FOVEATE_WORKSPACE_H
#define FOVEATE_WORKSPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "build.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* ---- threads ----------------------------------------------------------------------------- */

typedef struct {
  int64_t begin, end;
} fv_range;

/* The index-th of `shares` nearly equal, contiguous shares of [0, total). */
FV_INLINE fv_range fv_split(int64_t total, int64_t shares, int64_t index) {
  return (fv_range){total * index / shares, total * (index + 1) / shares};
}

FV_INLINE int fv_thread(void) {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

/* How many threads the enclosing parallel region really has. */
FV_INLINE int fv_threads(void) {
#if defined(_OPENMP)
  return omp_get_num_threads();
#else
  return 1;
#endif
}

/* ---- memory ------------------------------------------------------------------------------ */

/* `n`, or the next multiple above it. */
FV_INLINE ptrdiff_t fv_round_up(ptrdiff_t n, ptrdiff_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/* Memory of `floats` floats on a cache line's boundary; NULL when there is none. */
FV_INLINE float *fv_alloc(size_t floats) {
  size_t bytes = (floats * sizeof(float) + 127) / 64 * 64;
#if defined(_WIN32)
  return (float *)_aligned_malloc(bytes, 64);
#else
  void *memory = NULL;
  return posix_memalign(&memory, 64, bytes) ? NULL : (float *)memory;
#endif
}

FV_INLINE void fv_free(float *memory) {
#if defined(_WIN32)
  _aligned_free(memory);
#else
  free(memory);
#endif
}

/* Hands out pieces of one allocation; with no memory yet it only counts. So a workspace is laid out
 * twice by one function: first to learn its size, then in its memory.
 */
typedef struct {
  float *memory;
  size_t used;
} fv_arena;

/* `floats` floats on a cache line's boundary. */
FV_INLINE float *fv_take(fv_arena *arena, ptrdiff_t floats) {
  float *piece = arena->memory ? arena->memory + arena->used : NULL;
  arena->used += ((size_t)floats + 15) / 16 * 16;
  return piece;
}

/* The same for anything else, by bytes. */
FV_INLINE void *fv_take_bytes(fv_arena *arena, ptrdiff_t bytes) {
  return fv_take(arena, (bytes + (ptrdiff_t)sizeof(float) - 1) / (ptrdiff_t)sizeof(float));
}

/* Large memory that nobody has touched yet, in huge pages if the system gives them on request: on
 * 77 MB of output, faults of small ones take a fifth of slide attention's time.
 */
static __attribute__((unused)) void fv_expect_writes(void *memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = 2 << 20, from = (uintptr_t)memory, to = from + bytes;
  const uintptr_t first = (from + page - 1) / page * page, last = to / page * page;
  if (bytes >= 32 << 20 && last > first) madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

#endif
