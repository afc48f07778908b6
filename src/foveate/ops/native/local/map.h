/* How the kernels of local attention divide maps.
 *
 * A dilated map falls apart into classes of positions that see only each other; each class of one
 * head of one image is a dense map with larger strides, so nothing beyond this file knows
 * dilation. A tile is FV_LANES neighbouring queries of a row, one a lane. A strip is a range of
 * tiles: wide maps are done strip by strip, so that what is kept of a row fits the cache.
 */
#ifndef FOVEATE_LOCAL_MAP_H
#define FOVEATE_LOCAL_MAP_H

#include "../common/tensor.h"
#include "arguments.h"
#include "products.h"

typedef fv_local_arguments fv_arguments;

/* ---- maps -------------------------------------------------------------------------------- */

typedef struct {
  int height, width, key_height, key_width; /* of this class */
  int kernel_h, kernel_w, before_h, before_w, border;
  int64_t image, head, class_y, class_x;
  int tile_begin, tile_end; /* the strip */
} fv_map;

FV_INLINE int64_t class_length(int64_t length, int64_t dilation, int64_t class) {
  return (length - class + dilation - 1) / dilation;
}

FV_INLINE int tiles_of(int64_t width) { return (int)((width + L - 1) / L); }

/* Tiles of the widest class. */
FV_INLINE int most_tiles(const fv_arguments *a) {
  return tiles_of(class_length(a->width, a->dilation_w, 0));
}

/* Into how many strips of at most `tiles` tiles the widest maps fall. */
FV_INLINE int64_t strips_of(const fv_arguments *a, int tiles) {
  return (most_tiles(a) + tiles - 1) / tiles;
}

/* Tiles of the widest strip. */
FV_INLINE int strip_tiles(const fv_arguments *a, int64_t strips) {
  return (int)((most_tiles(a) + strips - 1) / strips);
}

/* Work items there are: a strip of a class of one head of one image. Their numbers count classes of
 * columns slowest, as those differ in width.
 */
FV_INLINE int64_t item_count(const fv_arguments *a, int64_t strips) {
  return a->batch * a->heads * strips * a->dilation_h * a->dilation_w;
}

/* The map and strip of a work item. */
FV_INLINE fv_map map_of(const fv_arguments *a, int64_t strips, int64_t number) {
  fv_map m;
  m.class_y = number % a->dilation_h;
  number /= a->dilation_h;
  const int64_t strip = number % strips;
  number /= strips;
  m.head = number % a->heads;
  number /= a->heads;
  m.image = number % a->batch;
  m.class_x = number / a->batch;
  m.height = (int)class_length(a->height, a->dilation_h, m.class_y);
  m.width = (int)class_length(a->width, a->dilation_w, m.class_x);
  m.key_height = (int)class_length(a->key_height, a->dilation_h, m.class_y);
  m.key_width = (int)class_length(a->key_width, a->dilation_w, m.class_x);
  m.kernel_h = (int)a->kernel_h;
  m.kernel_w = (int)a->kernel_w;
  m.border = (int)a->border;
  m.before_h = a->border == BORDER_REFLECT ? 0 : (int)a->kernel_h / 2;
  m.before_w = a->border == BORDER_REFLECT ? 0 : (int)a->kernel_w / 2;
  const fv_range tiles = fv_split(tiles_of(m.width), strips, strip);
  m.tile_begin = (int)tiles.begin;
  m.tile_end = (int)tiles.end;
  return m;
}

/* The tensor's coordinates of a query of this map. */
FV_INLINE int64_t image_row(const fv_arguments *a, const fv_map *m, int y) {
  return m->class_y + y * a->dilation_h;
}

FV_INLINE int64_t image_column(const fv_arguments *a, const fv_map *m, int x) {
  return m->class_x + (x < m->width ? x : m->width - 1) * a->dilation_w;
}

/* A query's place in a contiguous (B, H, W, heads). */
FV_INLINE int64_t query_place(const fv_arguments *a, const fv_map *m, int y, int x) {
  return ((m->image * a->height + image_row(a, m, y)) * a->width + image_column(a, m, x)) *
             a->heads +
         m->head;
}

/* A contiguous tensor of `count` numbers for each position and head is about to be written. */
FV_INLINE void expect_writes(const fv_arguments *a, void *to, int64_t height, int64_t width,
                             int64_t count) {
  const fv_tensor t = fv_contiguous(to, height, width, a->heads, count, a->storage);
  fv_expect_tensor(&t, a->batch);
}

/* In debug builds: what both kernels take for granted. */
FV_INLINE void check_arguments(const fv_arguments *a) {
  fv_check_run(&a->run);
  assert(a->batch >= 0);
  if (!a->batch) return;
  fv_check_view(&a->q, a->storage, a->dim, true);
  fv_check_view(&a->k, a->storage, a->dim, true);
  fv_check_view(&a->v, a->storage, a->value_dim, true);
  assert(a->height > 0 && a->width > 0 && a->heads > 0);
  assert(a->kernel_h > 0 && a->kernel_w > 0 && a->dilation_h > 0 && a->dilation_w > 0);
  assert(BORDER_SHIFT <= a->border && a->border <= BORDER_REFLECT);
  assert(BIAS_NONE <= a->bias_kind && a->bias_kind <= BIAS_EACH);
  assert(!a->bias.data == (a->bias_kind == BIAS_NONE));
  assert(a->bias_kind != BIAS_TABLE || a->bias_storage == STORAGE_FLOAT32);
  const int64_t more_h = a->border == BORDER_REFLECT ? (a->kernel_h - 1) * a->dilation_h : 0;
  const int64_t more_w = a->border == BORDER_REFLECT ? (a->kernel_w - 1) * a->dilation_w : 0;
  assert(a->key_height == a->height + more_h && a->key_width == a->width + more_w);
  assert(a->border != BORDER_SHIFT ||
         (a->kernel_h * a->dilation_h <= a->height && a->kernel_w * a->dilation_w <= a->width));
  (void)a, (void)more_h, (void)more_w;
}

/* ---- windows and tiles ------------------------------------------------------------------- */

/* Where the window of a query starts among the keys; outside the map it may. */
FV_INLINE int window_start(int position, int keys, int kernel, int before, int border) {
  int start = position - before;
  if (border == BORDER_SHIFT) {
    if (start > keys - kernel) start = keys - kernel;
    if (start < 0) start = 0;
  }
  return start;
}

FV_INLINE int row_start(const fv_map *m, int y) {
  return window_start(y, m->key_height, m->kernel_h, m->before_h, m->border);
}

FV_INLINE int column_start(const fv_map *m, int x) {
  if (m->border == BORDER_SHIFT && x >= m->width) x = m->width - 1;
  return window_start(x, m->key_width, m->kernel_w, m->before_w, m->border);
}

/* Whether lane l of the tile sees column l + t of the keys from the tile's first on, at tap t.
 * At a "shift" border the windows of neighbours coincide and it does not.
 */
FV_INLINE int tile_is_plain(const fv_map *m, int tile) {
  return column_start(m, tile * L + L - 1) - column_start(m, tile * L) == L - 1;
}

/* The columns that a tile's lanes see at tap 0, beyond that of lane 0. */
FV_INLINE fv_i tile_lanes(const fv_map *m, int tile) {
  fv_i lanes;
  for (int i = 0; i < L; ++i) lanes[i] = column_start(m, tile * L + i) - column_start(m, tile * L);
  return lanes;
}

/* The lanes of a tile that are columns of the map. */
FV_INLINE int lanes_of(const fv_map *m, int tile) {
  return m->width - tile * L < L ? m->width - tile * L : L;
}

/* ---- planes: a map's positions in a tensor ------------------------------------------------ */

typedef struct {
  const char *data;
  ptrdiff_t row, column; /* in bytes */
  int storage;
} fv_plane;

/* The plane of a map in a tensor. */
FV_INLINE fv_plane plane_of(const fv_arguments *a, const fv_map *m, const fv_view *v,
                            int64_t storage) {
  const fv_tensor t = fv_tensor_of(v, storage, 0);
  return (fv_plane){fv_at(&t, m->image, m->class_y, m->class_x, m->head), t.row * a->dilation_h,
                    t.column * a->dilation_w, t.storage};
}

/* A map's plane in a tensor and that of the map after it, with no address if there is none: there,
 * the first column of this one's strip stands for that of the other's.
 */
typedef struct {
  fv_plane here, after;
} fv_planes;

FV_INLINE fv_planes planes_of(const fv_arguments *a, const fv_map *m, const fv_map *after,
                              const fv_view *v, int64_t storage) {
  fv_planes p = {plane_of(a, m, v, storage)};
  if (!after) return p;
  p.after = plane_of(a, after, v, storage);
  p.after.data += (ptrdiff_t)(after->tile_begin - m->tile_begin) * L * p.after.column;
  return p;
}

/* Addresses of the positions that a tile's lanes have in row y; beyond `width` the last one. */
FV_INLINE void lanes_at(const fv_plane *p, int y, int x, int width, const char **lanes) {
  for (int i = 0; i < L; ++i)
    lanes[i] = p->data + y * p->row + (x + i < width ? x + i : width - 1) * p->column;
}

/* ---- what comes next --------------------------------------------------------------------- */

/* Rows [begin, end) of some columns; what lies beyond the map are rows of the next one. */
FV_INLINE void add_part_ahead(fv_ahead *ahead, const fv_planes *planes, int begin, int end,
                              int height, int x, int columns, int dim) {
  const fv_plane *p = &planes->here;
  if (begin < 0) begin = 0;
  if (begin >= height) {
    p = &planes->after;
    begin -= height;
    end -= height;
    if (!p->data) return;
  } else if (end > height) {
    end = height;
  }
  fv_add_ahead(ahead,
               (fv_patch){p->data + begin * p->row + x * p->column, p->row, p->column, end - begin,
                          columns, dim * fv_bytes(p->storage)});
}

#endif
