/* Mean and maximum of a map along one axis, for each of several axes, with one reading of the map.
 *
 * A work item is some outer slices of an image. Of each slice, which stays in the caches, the inner
 * axis is pooled first, in the order of memory, and then the middle one. Pooled along the outer axis, an item's share is kept, and
 * the shares are joined in their order at the end: every number is computed the same way whatever
 * the count of threads. A maximum is the first of its equals, and NaN where there is one: then the
 * sum is NaN too, and the line is looked at again.
 */
#include "rows.h"

typedef fv_axis_pool_arguments fv_arguments;

enum {
  TOGETHER = 8, /* slices that are added up while their sums are in registers */
  BLOCK = 4     /* vectors of a row that are */
};

/* What is found beside the mean. */
enum { MEAN, LARGEST, INDEX };

typedef struct {
  float *sum, *largest, *index; /* planes (middle, inner) of each item */
} fv_shares;

FV_INLINE ptrdiff_t plane_of(const fv_arguments *a) { return a->middle * a->inner; }

/* The floats of a share's plane. */
FV_INLINE ptrdiff_t share_of(const fv_arguments *a) { return fv_round_up(plane_of(a), L); }

/* How many numbers there are from an image's slice on. */
FV_INLINE ptrdiff_t left_of(const fv_arguments *a, int64_t outer) {
  return (a->outer - outer) * plane_of(a);
}

/* Whether v comes in place of a maximum so far. */
FV_INLINE bool larger(float v, float so_far) {
  return v > so_far || (v != v && so_far == so_far);
}

FV_INLINE bool any_nan(fv_f x) {
  const fv_f wrong = fv_select(x != x, fv_set(1.f), (fv_f){0});
  return sum_of(wrong) > 0;
}

/* Where the mean is, from the maximum on. */
FV_INLINE ptrdiff_t mean_at(const fv_arguments *a, const fv_view *v) {
  return a->largest ? v->head : 0;
}

/* What lines of the map become: mean, maximum and where it was. */
typedef struct {
  fv_f mean, largest, index;
} fv_pooled;

FV_INLINE fv_pooled with_larger(fv_pooled so_far, const int wanted, fv_f v, fv_f number) {
  if (wanted == MEAN) return so_far;
  if (wanted == INDEX) so_far.index = fv_select(v > so_far.largest, number, so_far.index);
  so_far.largest = fv_max(v, so_far.largest);
  return so_far;
}

FV_INLINE fv_pooled with(fv_pooled so_far, const int wanted, fv_f v, fv_f number) {
  so_far.mean += v;
  return with_larger(so_far, wanted, v, number);
}

/* The maximum of some numbers `step` apart, NaN among them, in a lane of what was found. */
static void look_again(fv_pooled *found, int lane, const float *x, ptrdiff_t step, int64_t count) {
  float largest = -INFINITY, index = 0;
  for (int64_t i = 0; i < count; ++i)
    if (larger(x[i * step], largest)) largest = x[i * step], index = (float)i;
  found->largest[lane] = largest;
  found->index[lane] = index;
}

FV_INLINE fv_pooled nothing(void) {
  return (fv_pooled){{0}, fv_set(-INFINITY), {0}};
}

/* A plane to write to: in place where its second axis is, else turned, [column][row of the item],
 * since single numbers far from each other would push each other out of the caches. */
typedef struct {
  const fv_view *to, *index;
  float *turned; /* mean, largest, index; NULL: in place */
  int64_t first, rows, columns;
} fv_plane;

FV_INLINE void write_pooled(const fv_arguments *a, const int wanted, const fv_plane *p, int64_t b, int64_t row,
                            int64_t column, fv_pooled v, int64_t lanes) {
  if (p->turned) {
    const ptrdiff_t plane = p->rows * p->columns;
    float *at = p->turned + column * p->rows + row - p->first;
    for (int64_t l = 0; l < lanes; ++l, at += p->rows) {
      at[0] = v.mean[l];
      if (wanted != MEAN) at[plane] = v.largest[l];
      if (wanted == INDEX) at[2 * plane] = v.index[l];
    }
    return;
  }
  float *at = place(p->to, b, row, column);
  store_part(at + mean_at(a, p->to), v.mean, lanes);
  if (wanted == MEAN) return;
  store_part(at, v.largest, lanes);
  if (wanted == INDEX) store_part(place(p->index, b, row, column), v.index, lanes);
}

/* The turned rows of an item to where they belong. */
static void write_turned(const fv_arguments *a, const fv_plane *p, int64_t b) {
  if (!p->turned) return;
  const size_t bytes = (size_t)p->rows * sizeof(float);
  for (int64_t column = 0; column < p->columns; ++column) {
    const float *from = p->turned + column * p->rows;
    float *at = place(p->to, b, p->first, column);
    memcpy(at + mean_at(a, p->to), from, bytes);
    if (!a->largest) continue;
    memcpy(at, from + p->rows * p->columns, bytes);
    if (p->index->data)
      memcpy(place(p->index, b, p->first, column), from + 2 * p->rows * p->columns, bytes);
  }
}

/* A few slices, the first of them number `first`, into an item's share. */
FV_INLINE void add_slices(const fv_arguments *a, const int wanted, const float *x, int64_t first,
                          int slices, bool fresh, const fv_shares *s) {
  const ptrdiff_t plane = plane_of(a);
  for (ptrdiff_t p = 0; p < plane; p += L) {
    const int64_t lanes = plane - p < L ? plane - p : L;
    fv_pooled v = nothing();
    if (!fresh) v.mean = fv_load(s->sum + p);
    if (!fresh && wanted != MEAN) v.largest = fv_load(s->largest + p), v.index = fv_load(s->index + p);
    const fv_pooled before = v;
    for (int i = 0; i < slices; ++i) {
      const fv_f one = load_at(x + i * plane, p, plane, left_of(a, first + i));
      v = with(v, wanted, one, fv_set((float)(first + i)));
    }
    if (wanted != MEAN && any_nan(v.mean)) {
      v.largest = before.largest, v.index = before.index;
      for (int64_t l = 0; l < lanes; ++l)
        for (int i = 0; i < slices; ++i)
          if (larger(x[i * plane + p + l], v.largest[l]))
            v.largest[l] = x[i * plane + p + l], v.index[l] = (float)(first + i);
    }
    fv_store(s->sum + p, v.mean);
    if (wanted == MEAN) continue;
    fv_store(s->largest + p, v.largest);
    fv_store(s->index + p, v.index);
  }
}

static void join_shares(const fv_arguments *a, int64_t b, int64_t items, const fv_shares *s) {
  const ptrdiff_t plane = share_of(a);
  const float factor = 1.f / (float)a->outer;
  for (int64_t m = 0, p = 0; m < a->middle; ++m)
    for (int64_t n = 0; n < a->inner; ++n, ++p) {
      float sum = 0, largest = -INFINITY, index = 0;
      for (int64_t i = 0; i < items; ++i) {
        sum += s->sum[i * plane + p];
        if (!a->largest || !larger(s->largest[i * plane + p], largest)) continue;
        largest = s->largest[i * plane + p];
        index = s->index[i * plane + p];
      }
      float *at = place(&a->over_outer, b, m, n);
      at[mean_at(a, &a->over_outer)] = sum * factor;
      if (a->largest) at[0] = largest;
      if (a->index_outer.data) *place(&a->index_outer, b, m, n) = index;
    }
}

/* Some vectors of all rows of a slice, along the middle axis. */
FV_INLINE void pool_columns(const fv_arguments *a, const int wanted, const fv_plane *p,
                            const float *slice, int64_t b, int64_t outer, int64_t n,
                            const int vectors) {
  const float factor = 1.f / (float)a->middle;
  const ptrdiff_t left = left_of(a, outer);
  const bool whole = n + vectors * L <= left - (a->middle - 1) * a->inner;
  fv_pooled v[BLOCK];
  for (int i = 0; i < vectors; ++i) v[i] = nothing();
  for (int64_t m = 0; m < a->middle; ++m)
    for (int i = 0; i < vectors; ++i) {
      const float *row = slice + m * a->inner;
      const fv_f x = whole ? fv_load(row + n + i * L)
                           : load_at(row, n + i * L, a->inner, left - m * a->inner);
      v[i] = with(v[i], wanted, x, fv_set((float)m));
    }
  for (int i = 0; i < vectors; ++i, n += L) {
    const int64_t lanes = a->inner - n < L ? a->inner - n : L;
    if (wanted != MEAN && any_nan(v[i].mean))
      for (int l = 0; l < lanes; ++l) look_again(&v[i], l, slice + n + l, a->inner, a->middle);
    v[i].mean *= factor;
    write_pooled(a, wanted, p, b, outer, n, v[i], lanes);
  }
}

/* Along the middle axis of a slice. */
FV_INLINE void pool_middle(const fv_arguments *a, const int wanted, const fv_plane *p,
                           const float *slice, int64_t b, int64_t outer) {
  int64_t n = 0;
  for (; n + (BLOCK - 1) * L < a->inner; n += BLOCK * L)
    pool_columns(a, wanted, p, slice, b, outer, n, BLOCK);
  if (n + L < a->inner) {
    pool_columns(a, wanted, p, slice, b, outer, n, 2);
    n += 2 * L;
  }
  if (n < a->inner) pool_columns(a, wanted, p, slice, b, outer, n, 1);
}

/* The lanes of a row's vectors become one: in all lanes the sum, the maximum and where it was. */
FV_INLINE fv_pooled across(fv_pooled v, const int wanted) {
#define FOLD(step)                                                                           \
  do {                                                                                       \
    v.mean += LANES_FROM(v.mean, step);                                                      \
    if (wanted == MEAN) break;                                                               \
    const fv_f other = LANES_FROM(v.largest, step), at = LANES_FROM(v.index, step);          \
    if (wanted == INDEX)                                                                     \
      v.index = fv_select((other > v.largest) | ((other == v.largest) & (at < v.index)), at, \
                          v.index);                                                          \
    v.largest = fv_max(other, v.largest);                                                    \
  } while (0)
#if FV_LANES == 8
  FOLD(4);
#endif
  FOLD(2);
  FOLD(1);
#undef FOLD
  return v;
}

/* Along the inner axis of a slice, row by row. */
FV_INLINE void pool_inner(const fv_arguments *a, const int wanted, const fv_plane *p,
                          const float *slice, int64_t b, int64_t outer) {
  const int64_t count = a->inner, full = count / L * L;
  const fv_f lanes = lane_numbers();
  const fv_i there = lanes < fv_set((float)(count - full));
  const float factor = 1.f / (float)count;
  for (int64_t m = 0; m < a->middle; ++m) {
    const float *row = slice + m * count;
    fv_pooled v = nothing();
    for (int64_t n = 0; n < full; n += L) v = with(v, wanted, fv_load(row + n), lanes + (float)n);
    if (full < count) {
      const fv_f x = load_at(row, full, count, left_of(a, outer) - m * count);
      v.mean += fv_select(there, x, (fv_f){0});
      v = with_larger(v, wanted, fv_select(there, x, fv_set(-INFINITY)), lanes + (float)full);
    }
    v = across(v, wanted);
    if (wanted != MEAN && v.mean[0] != v.mean[0]) look_again(&v, 0, row, 1, count);
    v.mean *= factor;
    write_pooled(a, wanted, p, b, outer, m, v, 1);
  }
}

/* Memory for the planes of an item that are written turned. */
static fv_plane plane_to(const fv_view *to, const fv_view *index, fv_range slices, int64_t columns,
                         float *memory) {
  const bool turned = to->data && to->row == 1 && to->column != 1;
  return (fv_plane){to, index, turned ? memory : NULL, slices.begin, slices.end - slices.begin,
                    columns};
}

FV_INLINE void pool_item(const fv_arguments *a, const int wanted, int64_t b, int64_t items,
                         int64_t item, const fv_shares *s, float *memory) {
  const fv_range slices = fv_split(a->outer, items, item);
  const ptrdiff_t plane = plane_of(a), lines = 3 * (slices.end - slices.begin) * a->inner;
  const ptrdiff_t share = item * share_of(a);
  const fv_shares own = {s->sum + share, s->largest + share, s->index + share};
  const fv_plane middle = plane_to(&a->over_middle, &a->index_middle, slices, a->inner, memory);
  const fv_plane inner =
      plane_to(&a->over_inner, &a->index_inner, slices, a->middle, memory + lines);
  for (int64_t o = slices.begin; o < slices.end; o += TOGETHER) {
    const int64_t end = o + TOGETHER < slices.end ? o + TOGETHER : slices.end;
    const float *x = a->x + (b * a->outer + o) * plane;
    if (a->over_outer.data) add_slices(a, wanted, x, o, (int)(end - o), o == slices.begin, &own);
    for (int64_t i = o; i < end; ++i) {
      const float *slice = x + (i - o) * plane;
      if (a->over_inner.data) pool_inner(a, wanted, &inner, slice, b, i);
      if (a->over_middle.data) pool_middle(a, wanted, &middle, slice, b, i);
    }
  }
  write_turned(a, &middle, b);
  write_turned(a, &inner, b);
}

static void check_arguments(const fv_arguments *a) {
  assert(a->threads > 0 && a->outer > 0 && a->middle > 0 && a->inner > 0 && a->batch >= 0);
  assert(!a->batch || a->over_outer.data || a->over_middle.data || a->over_inner.data);
  (void)a;
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(axis_pool_forward)(const fv_arguments *a) {
  check_arguments(a);
  if (!a->batch) return 0;
  assert(a->x);
  const int64_t items = items_of(a->outer);
  const bool index = a->index_outer.data || a->index_middle.data || a->index_inner.data;
  const ptrdiff_t shares = a->over_outer.data ? items * share_of(a) : 0;
  const ptrdiff_t slices = (a->outer + items - 1) / items;
  const ptrdiff_t lines = 3 * slices * (a->middle + a->inner);
  float *memory = fv_alloc((size_t)(a->batch * 3 * shares + a->threads * lines));
  if (!memory) return 1;
  float *turned = memory + a->batch * 3 * shares;
#pragma omp parallel num_threads((int)a->threads) if (a->threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->batch * items; ++i) {
      float *own = memory + i / items * 3 * shares;
      const fv_shares s = {own, own + shares, own + 2 * shares};
      float *lines_of = turned + fv_thread() * lines;
      if (index)
        pool_item(a, INDEX, i / items, items, i % items, &s, lines_of);
      else if (a->largest)
        pool_item(a, LARGEST, i / items, items, i % items, &s, lines_of);
      else
        pool_item(a, MEAN, i / items, items, i % items, &s, lines_of);
    }
    if (shares) {
#pragma omp for schedule(static)
      for (int64_t b = 0; b < a->batch; ++b) {
        float *own = memory + b * 3 * shares;
        const fv_shares s = {own, own + shares, own + 2 * shares};
        join_shares(a, b, items, &s);
      }
    }
  }
  fv_free(memory);
  return 0;
}

/* ---- backward ---------------------------------------------------------------------------- */

/* Gradients that meet the rows of a slice: planes of rows (the outer axis was pooled) or one row
 * (the middle axis was), padded to whole vectors. */
typedef struct {
  float *mean, *largest, *index;
} fv_gradients;

static fv_gradients take_gradients(fv_arena *arena, ptrdiff_t floats) {
  fv_gradients g;
  g.mean = fv_take(arena, floats);
  g.largest = fv_take(arena, floats);
  g.index = fv_take(arena, floats);
  return g;
}

/* The gradients of a row of a view, the mean's times factor. */
static void gather_row(const fv_arguments *a, const fv_view *from, const fv_view *index, int64_t b,
                       int64_t row, float factor, const fv_gradients *to, ptrdiff_t at) {
  for (int64_t n = 0; n < a->inner; ++n) {
    const float *p = place(from, b, row, n);
    to->mean[at + n] = p[mean_at(a, from)] * factor;
    if (!a->largest) continue;
    to->largest[at + n] = p[0];
    to->index[at + n] = *place(index, b, row, n);
  }
}

/* dx of a row, `left` numbers before the work item's end; `at` is where outer gradients have it. */
static void row_backward(const fv_arguments *a, const fv_gradients *outer, ptrdiff_t at,
                         const fv_gradients *middle, float inner, int64_t o, int64_t m,
                         ptrdiff_t left, float *dx) {
  const bool by_outer = a->over_outer.data, by_middle = a->over_middle.data, most = a->largest;
  const fv_f slice = fv_set((float)o), row = fv_set((float)m);
  for (int64_t n = 0; n < a->inner; n += L) {
    fv_f d = fv_set(inner);
    if (by_outer) d += fv_load(outer->mean + at + n);
    if (by_middle) d += fv_load(middle->mean + n);
    if (by_outer && most)
      d += fv_select(fv_load(outer->index + at + n) == slice, fv_load(outer->largest + at + n),
                     (fv_f){0});
    if (by_middle && most)
      d += fv_select(fv_load(middle->index + n) == row, fv_load(middle->largest + n), (fv_f){0});
    store_at(dx, n, a->inner, left, d);
  }
}

static void item_backward(const fv_arguments *a, int64_t b, fv_range slices,
                          const fv_gradients *outer, const fv_gradients *middle) {
  const ptrdiff_t plane = plane_of(a), step = fv_round_up(a->inner, L);
  for (int64_t o = slices.begin; o < slices.end; ++o) {
    if (a->over_middle.data)
      gather_row(a, &a->over_middle, &a->index_middle, b, o, 1.f / (float)a->middle, middle, 0);
    for (int64_t m = 0; m < a->middle; ++m) {
      const ptrdiff_t left = (slices.end - o) * plane - m * a->inner;
      float *dx = a->dx + (b * a->outer + o) * plane + m * a->inner;
      const float *inner = a->over_inner.data ? place(&a->over_inner, b, o, m) : NULL;
      const float mean = inner ? inner[mean_at(a, &a->over_inner)] / (float)a->inner : 0;
      row_backward(a, outer, m * step, middle, mean, o, m, left, dx);
      if (inner && a->largest) dx[(int64_t)*place(&a->index_inner, b, o, m)] += inner[0];
    }
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(axis_pool_backward)(const fv_arguments *a) {
  check_arguments(a);
  if (!a->batch) return 0;
  assert(a->dx);
  const int64_t items = items_of(a->outer);
  const ptrdiff_t step = fv_round_up(a->inner, L);
  const ptrdiff_t plane = a->over_outer.data ? a->middle * step : 0;
  fv_arena shared = {0}, own = {0};
  for (int64_t b = 0; b < a->batch; ++b) take_gradients(&shared, plane);
  take_gradients(&own, step);
  const size_t floats = shared.used + (size_t)a->threads * own.used;
  float *memory = fv_alloc(floats);
  if (!memory) return 1;
  memset(memory, 0, floats * sizeof(float));
#pragma omp parallel num_threads((int)a->threads) if (a->threads > 1)
  {
    const size_t each = shared.used / (size_t)a->batch;
    if (plane) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < a->batch * a->middle; ++i) {
        fv_arena arena = {memory + (size_t)(i / a->middle) * each, 0};
        const fv_gradients outer = take_gradients(&arena, plane);
        gather_row(a, &a->over_outer, &a->index_outer, i / a->middle, i % a->middle,
                   1.f / (float)a->outer, &outer, i % a->middle * step);
      }
    }
    fv_arena mine = {memory + shared.used + (size_t)fv_thread() * own.used, 0};
    const fv_gradients middle = take_gradients(&mine, step);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->batch * items; ++i) {
      fv_arena arena = {memory + (size_t)(i / items) * each, 0};
      const fv_gradients outer = take_gradients(&arena, plane);
      item_backward(a, i / items, fv_split(a->outer, items, i % items), &outer, &middle);
    }
  }
  fv_free(memory);
  return 0;
}
