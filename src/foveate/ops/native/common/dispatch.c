/* Which build of the kernels this machine runs. */
#include "build.h"

#if !defined(_OPENMP)
/* Exported by builds without OpenMP, so that Python can say it; nobody calls it. */
FV_EXPORT void foveate_one_thread(void);
void foveate_one_thread(void) {}
#endif

/* The suffix of the functions to call. */
FV_EXPORT const char *foveate_isa(void) {
#if defined(FV_HAS_v4)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    return "v4";
#endif
#if defined(FV_HAS_v3)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
    return "v3";
#endif
#if defined(FV_HAS_neon)
  return "neon";
#else
  return "generic";
#endif
}
