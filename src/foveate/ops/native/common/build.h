/* How functions are named and exported: FV(name) is this build's name of a kernel, name_v4, name_v3
 * or name_generic.
 */
#ifndef FOVEATE_BUILD_H
#define FOVEATE_BUILD_H

#define FV_JOIN_(a, b) a##_##b
#define FV_JOIN(a, b) FV_JOIN_(a, b)
#define FV(name) FV_JOIN(name, FV_ISA)

#if defined(_WIN32)
#define FV_EXPORT __declspec(dllexport)
#else
#define FV_EXPORT __attribute__((visibility("default")))
#endif

#define FV_INLINE static inline __attribute__((always_inline))

#endif
