/* Calls kernels of a library on request; started in an emulator by emulated.py, which says more.
 *
 *     emulated LIBRARY FILE ADDRESS BYTES
 *
 * The file holds the memory that the arguments point into, and lies at the same address in both
 * processes. First the library's instruction set and its table of structs are written, a line
 * each and an empty one. Then a request is a line, KERNEL BYTES, and the bytes of its arguments; the
 * answer is a line, what the kernel returned.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* As in native/common/layouts.c. */
typedef struct {
  const char *group, *name, *kind;
  int64_t offset, size;
} row;

static int fail(const char *message) {
  fprintf(stderr, "emulated: %s\n", message);
  return 1;
}

int main(int count, char **argument) {
  if (count != 5) return fail("wants LIBRARY FILE ADDRESS BYTES");
  void *library = dlopen(argument[1], RTLD_NOW);
  if (!library) return fail(dlerror());
  const int file = open(argument[2], O_RDWR);
  void *const address = (void *)(uintptr_t)strtoull(argument[3], NULL, 10);
  const size_t bytes = strtoull(argument[4], NULL, 10);
  const int how = MAP_SHARED | MAP_FIXED_NOREPLACE;
  if (file < 0 || mmap(address, bytes, PROT_READ | PROT_WRITE, how, file, 0) != address)
    return fail("cannot map the memory to its address");

  const char *(*isa)(void) = (const char *(*)(void))dlsym(library, "foveate_isa");
  const row *(*layouts)(void) = (const row *(*)(void))dlsym(library, "foveate_layouts");
  if (!isa || !layouts) return fail("the library lacks foveate_isa or foveate_layouts");
  puts(isa());
  for (const row *r = layouts(); r->group; ++r)
    printf("%s\t%s\t%s\t%" PRId64 "\t%" PRId64 "\n", r->group, r->name, r->kind, r->offset, r->size);
  puts("");
  fflush(stdout);

  char name[128];
  static _Alignas(16) char arguments[4096];
  size_t size;
  while (scanf("%127s %zu", name, &size) == 2) {
    getchar(); /* the end of the line */
    if (size > sizeof arguments || fread(arguments, 1, size, stdin) != size)
      return fail("cannot read the arguments");
    int (*kernel)(const void *) = (int (*)(const void *))dlsym(library, name);
    if (!kernel) return fail(dlerror());
    printf("%d\n", kernel(arguments));
    fflush(stdout);
  }
  return 0;
}
