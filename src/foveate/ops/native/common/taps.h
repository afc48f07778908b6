/* Taps of a window around every position of a map: where each lies, for operators that read
 * neighbours and multiply no queries with keys.
 */
#ifndef FOVEATE_TAPS_H
#define FOVEATE_TAPS_H

#include "tensor.h"

/* Of an axis, [position][tap]: the position that the tap reads, -1 beyond the map. */
FV_INLINE void fv_find_taps(int *to, int64_t length, int64_t kernel, int64_t dilation,
                            int64_t border) {
  const int64_t last = length - 1;
  for (int64_t at = 0; at < length; ++at)
    for (int64_t tap = 0; tap < kernel; ++tap) {
      int64_t place = at + (tap - kernel / 2) * dilation;
      if (border == TAP_REFLECT) {
        place = place < 0 ? -place : place;
        place = place > last ? 2 * last - place : place;
        place = place < 0 ? 0 : place; /* the map is too small to reflect that far */
      }
      *to++ = place < 0 || place > last ? -1 : (int)place;
    }
}

/* Both axes of a map. */
typedef struct {
  int64_t height, width, kernel_h, kernel_w;
  int *rows, *columns;
} fv_taps;

/* Room for the taps' positions, counted or handed out as by fv_take. */
FV_INLINE void fv_take_taps(fv_taps *taps, fv_arena *arena) {
  taps->rows = fv_take_bytes(arena, taps->height * taps->kernel_h * (ptrdiff_t)sizeof(int));
  taps->columns = fv_take_bytes(arena, taps->width * taps->kernel_w * (ptrdiff_t)sizeof(int));
}

FV_INLINE void fv_fill_taps(const fv_taps *taps, int64_t dilation_h, int64_t dilation_w,
                            int64_t border) {
  fv_find_taps(taps->rows, taps->height, taps->kernel_h, dilation_h, border);
  fv_find_taps(taps->columns, taps->width, taps->kernel_w, dilation_w, border);
}

/* One tap of a position: its number, and the position that it reads. */
typedef struct {
  int tap, row, column;
} fv_tap;

/* The taps of a position that read rows [first, last) of the map; returns how many. */
FV_INLINE int fv_taps_at(const fv_taps *taps, int64_t y, int64_t x, int64_t first, int64_t last,
                         fv_tap *to) {
  int count = 0;
  for (int64_t i = 0; i < taps->kernel_h; ++i) {
    const int row = taps->rows[y * taps->kernel_h + i];
    if (row < first || row >= last) continue;
    for (int64_t j = 0; j < taps->kernel_w; ++j) {
      const int column = taps->columns[x * taps->kernel_w + j];
      if (column >= 0) to[count++] = (fv_tap){(int)(i * taps->kernel_w + j), row, column};
    }
  }
  return count;
}

/* Whether a tap of row y reads one of the rows [first, last). */
FV_INLINE bool fv_row_reaches(const fv_taps *taps, int64_t y, int64_t first, int64_t last) {
  for (int64_t i = 0; i < taps->kernel_h; ++i) {
    const int row = taps->rows[y * taps->kernel_h + i];
    if (row >= first && row < last) return true;
  }
  return false;
}

/* Rows of one image, of those that a thread has: [first, last). */
typedef struct {
  int64_t image, first, last;
} fv_rows;

/* The share of rows [begin, end), counted over images, that `begin` lies in. */
FV_INLINE fv_rows fv_rows_at(int64_t height, int64_t begin, int64_t end) {
  const int64_t first = begin % height, left = end - begin;
  return (fv_rows){begin / height, first, height - first < left ? height : first + left};
}

/* A float32 map (B, H, W, C) whose channels lie side by side. */
FV_INLINE const float *fv_pixel(const fv_view *map, int64_t image, int64_t y, int64_t x) {
  return (const float *)map->data + image * map->image + y * map->row + x * map->column;
}

/* `count` numbers from or to memory of any storage, where they lie side by side. */
static __attribute__((unused)) void fv_read_numbers(int storage, const char *from, float *to,
                                                    int count) {
  FV_BY_STORAGE(storage, fv_read_row_as(S, from, to, count, 1.0f));
}

static __attribute__((unused)) void fv_write_numbers(int storage, const float *from, char *to,
                                                     int count) {
  FV_BY_STORAGE(storage, fv_write_row_as(S, from, to, count));
}

#endif
