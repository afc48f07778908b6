/* What the slide kernels are given, and how rows of maps and weights lie while they work.
 *
 * Channels are vector lanes: a line is one row of one image and head in float32, (chunk, column,
 * FV_LANES), a chunk being FV_LANES channels, the last one filled up with zeros. Lines of queries
 * and of what belongs to them have `columns` columns. Lines of keys and values have `pitch`: what a
 * query at column x sees with tap (i, j) lies in column x + j of the i-th of `kernel_height` lines,
 * zero outside the map. These lines form a ring, so that the next row of queries needs one new line.
 */
#ifndef FOVEATE_SLIDE_MAP_H
#define FOVEATE_SLIDE_MAP_H

#if defined(__AVX512F__)
#define FV_LANES 16 /* few loads a multiply-add here: the wide vectors win */
#endif
#include "dropout.h"
#include "storage.h"

#include <stdbool.h>

#define L FV_LANES
/* Slots, or taps, and queries whose sums stay in registers together. */
#define GROUP 9
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE 2
#else
#define TILE 1
#endif

/* What forward and backward have in common; strides are in elements. */
struct common {
  int64_t batch, height, width, heads, depth, value_depth, kernel_height, kernel_width;
  int64_t storage; /* of q, k, v, the output and their gradients */
  void *q, *k, *v;
  int64_t strides[3][5]; /* of q, k, v: batch, row, column, head, channel */
  /* Weights (slots, taps, D), biases (heads, slots, D) of stride 0 where the heads share them. */
  const float *key_weight, *key_bias, *value_weight, *value_bias;
  int64_t key_bias_stride, value_bias_stride;
  float *probabilities; /* (B, heads, slots, H, W), before dropout */
  int64_t threads, seed_low, seed_high, threshold;
  double scale, keep_scale;
};

struct problem {
  int64_t batch, height, width, heads, rows; /* rows: of all images and heads */
  int kernel_height, kernel_width, top, left; /* top, left: how far a window reaches back */
  int slots, taps, groups;
  int64_t columns, pitch;
  int storage, threads;
  float scale;
  bool drops;
  fv_dropout dropout;
};

/* One (B, H, W, heads, D) tensor. */
struct map {
  char *data;
  int64_t batch, row, column, head, channel; /* strides in bytes */
  int storage, depth, chunks;
};

/* A run of rows of one image and head: [first, last). */
struct strip {
  int64_t image, head, first, last;
};

static inline int chunks_of(int64_t depth) { return (int)((depth + L - 1) / L); }

static inline struct problem describe(const struct common *c) {
  struct problem s;
  s.batch = c->batch, s.height = c->height, s.width = c->width, s.heads = c->heads;
  s.rows = s.batch * s.heads * s.height;
  s.kernel_height = (int)c->kernel_height, s.kernel_width = (int)c->kernel_width;
  s.top = s.kernel_height / 2, s.left = s.kernel_width / 2;
  s.slots = s.taps = s.kernel_height * s.kernel_width;
  s.groups = (s.slots + GROUP - 1) / GROUP;
  s.columns = (s.width + L - 1) / L * L;
  s.pitch = s.columns + s.kernel_width - 1;
  s.storage = (int)c->storage;
  s.threads = (int)(s.rows < c->threads ? s.rows : c->threads);
  s.scale = (float)c->scale;
  s.drops = c->threshold != 0;
  s.dropout = (fv_dropout){(uint32_t)c->seed_low, (uint32_t)c->seed_high, (uint32_t)c->threshold,
                           (float)c->keep_scale};
  return s;
}

static inline struct map map_of(void *data, const int64_t *strides, int64_t storage, int64_t depth) {
  const int64_t size = fv_bytes((int)storage);
  return (struct map){data, strides[0] * size, strides[1] * size, strides[2] * size,
                      strides[3] * size, strides[4] * size, (int)storage, (int)depth,
                      chunks_of(depth)};
}

static inline struct map contiguous_map(const struct problem *s, void *data, int64_t depth) {
  const int64_t column = s->heads * depth, row = s->width * column;
  return map_of(data, (int64_t[]){s->height * row, row, column, depth, 1}, s->storage, depth);
}

static inline void expect_writes(const struct problem *s, const struct map *m) {
  fv_expect_writes(m->data, (size_t)(s->batch * m->batch));
}

/* The part of rows [begin, end), counted over images, heads and rows, that `begin` lies in. */
static inline struct strip strip_at(const struct problem *s, int64_t begin, int64_t end) {
  const int64_t map = begin / s->height, first = begin % s->height, left = end - begin;
  const int64_t last = s->height - first < left ? s->height : first + left;
  return (struct strip){map / s->heads, map % s->heads, first, last};
}

/* ---- between maps and lines -------------------------------------------------------------- */

static inline char *at_row(const struct map *m, const struct strip *at, int64_t y) {
  return m->data + at->image * m->batch + y * m->row + at->head * m->head;
}

FV_INLINE void load_line_as(const int storage, const struct problem *s, const struct map *m,
                            const char *row, float factor, int64_t pitch, float *to) {
  const int size = fv_bytes(storage), whole = m->channel == size ? m->depth / L * L : 0;
  const char *from = row;
  for (int64_t x = 0; x < s->width; x++, from += m->column)
    for (int d = 0; d < whole; d += L)
      fv_store(to + d * pitch + x * L, fv_read(from + d * size, storage) * factor);
  for (int d = whole; d < m->depth; d++) {
    float *lane = to + d / L * L * pitch + d % L;
    from = row + d * m->channel;
    for (int64_t x = 0; x < s->width; x++, from += m->column)
      lane[x * L] = fv_read_one(from, storage) * factor;
  }
}

FV_INLINE void store_line_as(const int storage, const struct problem *s, const float *from,
                             int64_t pitch, float factor, const struct map *m, char *to) {
  const int size = fv_bytes(storage), whole = m->depth / L * L;
  for (int64_t x = 0; x < s->width; x++, to += m->column) {
    for (int d = 0; d < whole; d += L)
      fv_write(to + d * size, fv_load(from + d * pitch + x * L) * factor, storage);
    for (int d = whole; d < m->depth; d++)
      fv_write_one(to + d * size, from[whole * pitch + x * L + d - whole] * factor, storage);
  }
}

/* Row y of a map, times `factor`, becomes a line. */
static void load_line(const struct problem *s, const struct map *m, const struct strip *at,
                      int64_t y, float factor, int64_t pitch, float *to) {
  const char *row = at_row(m, at, y);
  if (m->storage == FV_FLOAT32) load_line_as(FV_FLOAT32, s, m, row, factor, pitch, to);
  else if (m->storage == FV_BFLOAT16) load_line_as(FV_BFLOAT16, s, m, row, factor, pitch, to);
  else load_line_as(FV_FLOAT16, s, m, row, factor, pitch, to);
}

/* The inverse, to contiguous channels. */
static void store_line(const struct problem *s, const float *from, int64_t pitch, float factor,
                       const struct map *m, const struct strip *at, int64_t y) {
  char *row = at_row(m, at, y);
  if (m->storage == FV_FLOAT32) store_line_as(FV_FLOAT32, s, from, pitch, factor, m, row);
  else if (m->storage == FV_BFLOAT16) store_line_as(FV_BFLOAT16, s, from, pitch, factor, m, row);
  else store_line_as(FV_FLOAT16, s, from, pitch, factor, m, row);
}

/* A row that will be read or written soon. The products prefetch it pixel by pixel as they go on:
 * all at once, it would fill the queue of outstanding misses and hold the processor up. */
struct ahead {
  const char *row;
  int64_t column, chunk; /* in bytes */
};

/* `rows` rows behind row y, where the maps of all images and heads follow each other. */
static inline struct ahead ahead_of(const struct problem *s, const struct map *m,
                                    const struct strip *at, int64_t y, int64_t rows) {
  const int64_t row = (at->image * s->heads + at->head) * s->height + y + rows;
  const struct strip next = strip_at(s, row < s->rows ? row : s->rows - 1, s->rows);
  return (struct ahead){at_row(m, &next, next.first), m->column, L * fv_bytes(m->storage)};
}

FV_INLINE void fetch(struct ahead ahead, int64_t x, int chunk) {
  fv_prefetch((const float *)(ahead.row + x * ahead.column + chunk * ahead.chunk));
}

FV_INLINE void fetch_to_write(struct ahead ahead, int64_t x, int chunk) {
  fv_prefetch_write((const float *)(ahead.row + x * ahead.column + chunk * ahead.chunk));
}

/* ---- probabilities: (slots filled up to groups, columns), kept as (B, heads, slots, H, W) ---- */

static inline float *probability_row(const struct problem *s, float *kept, const struct strip *at,
                                     int slot, int64_t y) {
  return kept + (((at->image * s->heads + at->head) * s->slots + slot) * s->height + y) * s->width;
}

/* to = from where a weight stays, scaled up; 0 elsewhere. */
static void drop_row(const struct problem *s, const struct strip *at, int64_t y, const float *from,
                     float *to) {
  fv_u lane = {0};
  for (int i = 0; i < L; i++) lane[i] = (uint32_t)i;
  for (int64_t x = 0; x < s->width; x += L) {
    const int64_t first = ((at->image * s->height + y) * s->width + x) * s->heads + at->head;
    const fv_u query = lane * (uint32_t)s->heads + (uint32_t)first;
    const fv_u word = fv_dropout_query(&s->dropout, query);
    for (int n = 0; n < s->slots; n++) {
      const fv_i kept = fv_dropout_kept(&s->dropout, word, (fv_u){0} + (uint32_t)n);
      const fv_f x_n = fv_load(from + n * s->columns + x) * s->dropout.scale;
      fv_store(to + n * s->columns + x, fv_select(kept, x_n, (fv_f){0}));
    }
  }
}

/* ---- rings of lines ---------------------------------------------------------------------- */

struct ring {
  float *lines;
  int64_t size; /* of a line, in floats */
};

/* Floats that take the addresses of a window's lines. */
static inline int64_t addresses_size(const struct problem *s) {
  return (s->kernel_height * (int64_t)(sizeof(float *) / sizeof(float)) + L - 1) / L * L;
}

static inline int64_t line_size(int64_t pitch, int chunks) { return pitch * chunks * L; }

/* Row y's line; y >= -kernel_height. */
static inline float *ring_line(const struct problem *s, const struct ring *r, int64_t y) {
  return r->lines + (y + s->kernel_height) % s->kernel_height * r->size;
}

/* The lines that row y of the queries sees. */
static inline void ring_lines(const struct problem *s, const struct ring *r, int64_t y,
                              float **lines) {
  for (int i = 0; i < s->kernel_height; i++) lines[i] = ring_line(s, r, y - s->top + i);
}

/* Load row y of keys or values, all zero where there is none. */
static inline void fill_ring(const struct problem *s, const struct ring *r, const struct map *m,
                             const struct strip *at, int64_t y) {
  float *line = ring_line(s, r, y);
  if (y < 0 || y >= s->height) memset(line, 0, r->size * sizeof(float));
  else load_line(s, m, at, y, 1.0f, s->pitch, line + s->left * L);
}

/* Load all but the last of the lines that row y sees. */
static inline void start_ring(const struct problem *s, const struct ring *r, const struct map *m,
                              const struct strip *at, int64_t y) {
  for (int i = 0; i < s->kernel_height - 1; i++) fill_ring(s, r, m, at, y - s->top + i);
}

/* ---- weights ----------------------------------------------------------------------------- */

/* Weights (group, chunk, inner, GROUP, FV_LANES), where GROUP counts slots and inner taps, or the
 * other way round; biases (heads, group, chunk, GROUP slots, FV_LANES); zeros fill up both. */
struct packed {
  float *weight, *bias;
};

static inline int64_t weight_size(const struct problem *s, int chunks) {
  return (int64_t)s->groups * chunks * s->taps * GROUP * L;
}

static inline int64_t bias_size(const struct problem *s, int chunks) {
  return (int64_t)s->groups * chunks * GROUP * L;
}

static inline int64_t packed_size(const struct problem *s, int chunks) {
  return weight_size(s, chunks) + s->heads * bias_size(s, chunks);
}

static inline struct packed packed_at(const struct problem *s, float *memory, int chunks) {
  return (struct packed){memory, memory + weight_size(s, chunks)};
}

/* from (slots, taps, D) where the groups are of slots, else (taps, slots, D) by its strides. */
static void pack_weight(const struct problem *s, const float *from, int64_t outer, int64_t inner,
                        int depth, float *to) {
  const int chunks = chunks_of(depth);
  for (int group = 0; group < s->groups; group++)
    for (int chunk = 0; chunk < chunks; chunk++)
      for (int j = 0; j < s->taps; j++)
        for (int n = group * GROUP; n < (group + 1) * GROUP; n++)
          for (int d = chunk * L; d < (chunk + 1) * L; d++)
            *to++ = n < s->slots && d < depth ? from[n * outer + j * inner + d] : 0.0f;
}

/* from (slots, D), of one head. */
static void pack_bias(const struct problem *s, const float *from, int depth, float *to) {
  const int chunks = chunks_of(depth);
  for (int group = 0; group < s->groups; group++)
    for (int chunk = 0; chunk < chunks; chunk++)
      for (int n = group * GROUP; n < (group + 1) * GROUP; n++)
        for (int d = chunk * L; d < (chunk + 1) * L; d++)
          *to++ = n < s->slots && d < depth ? from[(int64_t)n * depth + d] : 0.0f;
}

/* by_slot: for the convolution of all slots; else for the sums over slots. */
static inline void pack(const struct problem *s, const float *weight, const float *bias,
                        int64_t bias_stride, int depth, bool by_slot, struct packed to) {
  const int64_t slot = (int64_t)s->taps * depth;
  pack_weight(s, weight, by_slot ? slot : depth, by_slot ? depth : slot, depth, to.weight);
  for (int64_t head = 0; head < s->heads; head++)
    pack_bias(s, bias + head * bias_stride, depth, to.bias + head * bias_size(s, chunks_of(depth)));
}

#endif
