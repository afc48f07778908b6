/* What the slide kernels are given, and how rows of maps and weights lie while they work.
 *
 * Channels are vector lanes: a line is one row of one image and head in float32, (chunk, column,
 * FV_LANES), a chunk being FV_LANES channels, the last one filled up with zeros. Lines of queries
 * and of what belongs to them have `columns` columns. Lines of keys and values have `pitch`: what a
 * query at column x sees with tap (i, j) lies in column x + j of the i-th of `kernel_h` lines,
 * zero outside the map. These lines form a ring, so that the next row of queries needs one new
 * line.
 */
#ifndef FOVEATE_SLIDE_MAP_H
#define FOVEATE_SLIDE_MAP_H

#if defined(__AVX512F__)
#define FV_LANES 16 /* few loads a multiply-add here: the wide vectors win */
#endif
#include "../common/dropout.h"
#include "../common/tensor.h"
#include "arguments.h"

/* Shifts, or taps, and queries whose sums stay in registers together. */
#define GROUP 9
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE 2
#else
#define TILE 1
#endif

typedef fv_slide_arguments fv_arguments;

/* The arguments' sizes and settings, and what follows from them. */
typedef struct {
  int64_t batch, height, width, heads, rows; /* rows: of all images and heads */
  int kernel_h, kernel_w, top, left;         /* top, left: how far a window reaches back */
  int shifts, taps, groups;
  int64_t columns, pitch;
  int storage, threads;
  float scale;
  bool drops;
  fv_dropout dropout;
} fv_sizes;

/* A run of rows of one image and head: [first, last). */
typedef struct {
  int64_t image, head, first, last;
} fv_strip;

FV_INLINE int chunks_of(int64_t dim) { return (int)((dim + L - 1) / L); }

FV_INLINE fv_sizes sizes_of(const fv_arguments *a) {
  fv_sizes s = {.batch = a->batch, .height = a->height, .width = a->width, .heads = a->heads};
  s.rows = s.batch * s.heads * s.height;
  s.kernel_h = (int)a->kernel_h, s.kernel_w = (int)a->kernel_w;
  s.top = s.kernel_h / 2, s.left = s.kernel_w / 2;
  s.shifts = s.taps = s.kernel_h * s.kernel_w;
  s.groups = (s.shifts + GROUP - 1) / GROUP;
  s.columns = fv_round_up(s.width, L);
  s.pitch = s.columns + s.kernel_w - 1;
  s.storage = (int)a->storage;
  s.threads = (int)(s.rows < a->run.threads ? s.rows : a->run.threads);
  s.scale = (float)a->run.scale;
  s.drops = a->run.threshold != 0;
  s.dropout = fv_dropout_of(&a->run);
  return s;
}

/* A contiguous tensor of the map's size. */
FV_INLINE fv_tensor contiguous(const fv_sizes *s, void *data, int64_t dim) {
  return fv_contiguous(data, s->height, s->width, s->heads, dim, s->storage);
}

/* In debug builds: what both kernels take for granted. */
FV_INLINE void check_arguments(const fv_arguments *a) {
  fv_check_run(&a->run);
  assert(a->batch >= 0 && a->height > 0 && a->width > 0 && a->heads > 0);
  assert(a->kernel_h > 0 && a->kernel_w > 0 && a->dim > 0 && a->value_dim > 0);
  assert(a->key_weight && a->key_bias && a->value_weight && a->value_bias);
  const int64_t biases = a->kernel_h * a->kernel_w;
  assert(a->key_bias_stride == 0 || a->key_bias_stride == biases * a->dim);
  assert(a->value_bias_stride == 0 || a->value_bias_stride == biases * a->value_dim);
  (void)biases;
  if (!a->batch) return;
  fv_check_view(&a->q, a->storage, a->dim, false);
  fv_check_view(&a->k, a->storage, a->dim, false);
  fv_check_view(&a->v, a->storage, a->value_dim, false);
}

/* The share of rows [begin, end), counted over images, heads and rows, that `begin` lies in. */
FV_INLINE fv_strip strip_at(const fv_sizes *s, int64_t begin, int64_t end) {
  const int64_t map = begin / s->height, first = begin % s->height, left = end - begin;
  const int64_t last = s->height - first < left ? s->height : first + left;
  return (fv_strip){map / s->heads, map % s->heads, first, last};
}

/* ---- between maps and lines -------------------------------------------------------------- */

FV_INLINE char *at_row(const fv_tensor *t, const fv_strip *at, int64_t y) {
  return fv_at(t, at->image, y, 0, at->head);
}

FV_INLINE void load_line_as(const int storage, const fv_sizes *s, const fv_tensor *t,
                            const char *row, float factor, int64_t pitch, float *to) {
  const int size = fv_bytes(storage), whole = t->channel == size ? t->dim / L * L : 0;
  const char *from = row;
  for (int64_t x = 0; x < s->width; ++x, from += t->column)
    for (int d = 0; d < whole; d += L)
      fv_store(to + d * pitch + x * L, fv_read(from + d * size, storage) * factor);
  for (int d = whole; d < t->dim; ++d) {
    float *lane = to + d / L * L * pitch + d % L;
    from = row + d * t->channel;
    for (int64_t x = 0; x < s->width; ++x, from += t->column)
      lane[x * L] = fv_read_one(from, storage) * factor;
  }
}

FV_INLINE void store_line_as(const int storage, const fv_sizes *s, const float *from, int64_t pitch,
                             float factor, const fv_tensor *t, char *to) {
  const int size = fv_bytes(storage), whole = t->dim / L * L;
  for (int64_t x = 0; x < s->width; ++x, to += t->column) {
    for (int d = 0; d < whole; d += L)
      fv_write(to + d * size, fv_load(from + d * pitch + x * L) * factor, storage);
    for (int d = whole; d < t->dim; ++d)
      fv_write_one(to + d * size, from[whole * pitch + x * L + d - whole] * factor, storage);
  }
}

/* Row y of a map, times `factor`, becomes a line. */
static void load_line(const fv_sizes *s, const fv_tensor *t, const fv_strip *at, int64_t y,
                      float factor, int64_t pitch, float *to) {
  const char *row = at_row(t, at, y);
  FV_BY_STORAGE(t->storage, load_line_as(S, s, t, row, factor, pitch, to));
}

/* The inverse, to contiguous channels. */
static void store_line(const fv_sizes *s, const float *from, int64_t pitch, float factor,
                       const fv_tensor *t, const fv_strip *at, int64_t y) {
  char *row = at_row(t, at, y);
  FV_BY_STORAGE(t->storage, store_line_as(S, s, from, pitch, factor, t, row));
}

/* The row that lies `rows` behind row y, where the maps of all images and heads follow each other,
 * to be prefetched chunk by chunk as the products go on.
 */
FV_INLINE fv_patch row_ahead(const fv_sizes *s, const fv_tensor *t, const fv_strip *at, int64_t y,
                             int64_t rows) {
  const int64_t row = (at->image * s->heads + at->head) * s->height + y + rows;
  const fv_strip next = strip_at(s, row < s->rows ? row : s->rows - 1, s->rows);
  return (fv_patch){
      .data = at_row(t, &next, next.first), .column = t->column, .bytes = L * fv_bytes(t->storage)};
}

/* ---- probabilities: (shifts filled up to groups, columns), kept as (B, heads, shifts, H, W) -- */

FV_INLINE float *probability_row(const fv_sizes *s, float *kept, const fv_strip *at, int shift,
                                 int64_t y) {
  return kept +
         (((at->image * s->heads + at->head) * s->shifts + shift) * s->height + y) * s->width;
}

/* to = from where a weight stays, scaled up; 0 elsewhere. */
static void drop_row(const fv_sizes *s, const fv_strip *at, int64_t y, const float *from,
                     float *to) {
  fv_u lane = {0};
  for (int i = 0; i < L; ++i) lane[i] = (uint32_t)i;
  for (int64_t x = 0; x < s->width; x += L) {
    const int64_t first = ((at->image * s->height + y) * s->width + x) * s->heads + at->head;
    const fv_u query = lane * (uint32_t)s->heads + (uint32_t)first;
    const fv_u word = fv_dropout_query(&s->dropout, query);
    fv_drop(&s->dropout, word, NULL, s->shifts, from + x, to + x, s->columns);
  }
}

/* ---- rings of lines ---------------------------------------------------------------------- */

typedef struct {
  float *lines;
  int64_t size; /* of a line, in floats */
} fv_ring;

FV_INLINE int64_t line_size(int64_t pitch, int chunks) { return pitch * chunks * L; }

/* Row y's line; y >= -kernel_h. */
FV_INLINE float *ring_line(const fv_sizes *s, const fv_ring *r, int64_t y) {
  return r->lines + (y + s->kernel_h) % s->kernel_h * r->size;
}

/* The lines that row y of the queries sees. */
FV_INLINE void ring_lines(const fv_sizes *s, const fv_ring *r, int64_t y, float **lines) {
  for (int i = 0; i < s->kernel_h; ++i) lines[i] = ring_line(s, r, y - s->top + i);
}

/* Load row y of keys or values, all zero where there is none. */
FV_INLINE void fill_ring(const fv_sizes *s, const fv_ring *r, const fv_tensor *t,
                         const fv_strip *at, int64_t y) {
  float *line = ring_line(s, r, y);
  if (y < 0 || y >= s->height)
    memset(line, 0, r->size * sizeof(float));
  else
    load_line(s, t, at, y, 1.0f, s->pitch, line + s->left * L);
}

/* Load all but the last of the lines that row y sees. */
FV_INLINE void start_ring(const fv_sizes *s, const fv_ring *r, const fv_tensor *t,
                          const fv_strip *at, int64_t y) {
  for (int i = 0; i < s->kernel_h - 1; ++i) fill_ring(s, r, t, at, y - s->top + i);
}

/* ---- weights ----------------------------------------------------------------------------- */

/* Weights (group, chunk, inner, GROUP, FV_LANES), where GROUP counts shifts and inner taps, or the
 * other way round; biases (heads, group, chunk, GROUP shifts, FV_LANES); zeros fill up both. */
typedef struct {
  float *weight, *bias;
} fv_packed;

FV_INLINE int64_t weight_size(const fv_sizes *s, int chunks) {
  return (int64_t)s->groups * chunks * s->taps * GROUP * L;
}

FV_INLINE int64_t bias_size(const fv_sizes *s, int chunks) {
  return (int64_t)s->groups * chunks * GROUP * L;
}

FV_INLINE int64_t packed_size(const fv_sizes *s, int chunks) {
  return weight_size(s, chunks) + s->heads * bias_size(s, chunks);
}

FV_INLINE fv_packed take_packed(fv_arena *arena, const fv_sizes *s, int chunks) {
  float *memory = fv_take(arena, packed_size(s, chunks));
  return (fv_packed){memory, memory ? memory + weight_size(s, chunks) : NULL};
}

FV_INLINE fv_ring take_ring(fv_arena *arena, const fv_sizes *s, int chunks) {
  const int64_t size = line_size(s->pitch, chunks);
  return (fv_ring){fv_take(arena, s->kernel_h * size), size};
}

/* Addresses of the lines that a window sees. */
FV_INLINE float **take_lines(fv_arena *arena, const fv_sizes *s) {
  return fv_take_bytes(arena, s->kernel_h * (ptrdiff_t)sizeof(float *));
}

/* from (shifts, taps, D) where the groups are of shifts, else (taps, shifts, D) by its strides. */
static void pack_weight(const fv_sizes *s, const float *from, int64_t outer, int64_t inner, int dim,
                        float *to) {
  const int chunks = chunks_of(dim);
  for (int group = 0; group < s->groups; ++group)
    for (int chunk = 0; chunk < chunks; ++chunk)
      for (int j = 0; j < s->taps; ++j)
        for (int n = group * GROUP; n < (group + 1) * GROUP; ++n)
          for (int d = chunk * L; d < (chunk + 1) * L; ++d)
            *to++ = n < s->shifts && d < dim ? from[n * outer + j * inner + d] : 0.0f;
}

/* from (shifts, D), of one head. */
static void pack_bias(const fv_sizes *s, const float *from, int dim, float *to) {
  const int chunks = chunks_of(dim);
  for (int group = 0; group < s->groups; ++group)
    for (int chunk = 0; chunk < chunks; ++chunk)
      for (int n = group * GROUP; n < (group + 1) * GROUP; ++n)
        for (int d = chunk * L; d < (chunk + 1) * L; ++d)
          *to++ = n < s->shifts && d < dim ? from[(int64_t)n * dim + d] : 0.0f;
}

/* by_shift: for the convolution of all shifts; else for the sums over shifts. */
FV_INLINE void pack(const fv_sizes *s, const float *weight, const float *bias, int64_t bias_stride,
                    int dim, bool by_shift, fv_packed to) {
  const int64_t shift = (int64_t)s->taps * dim;
  pack_weight(s, weight, by_shift ? shift : dim, by_shift ? dim : shift, dim, to.weight);
  for (int64_t head = 0; head < s->heads; ++head)
    pack_bias(s, bias + head * bias_stride, dim, to.bias + head * bias_size(s, chunks_of(dim)));
}

#endif
