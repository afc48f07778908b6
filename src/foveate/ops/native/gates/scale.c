/* A map times a factor that is made of up to three, each the same along one axis or more.
 *
 *     product:  f = first * second * third       mean:  f = (first + second + third) / count
 *     sign:     f = first where x >= 0, else second
 *
 * Forward and backward read the map once, and the factor of the map's size is never stored. A work
 * item is some outer slices of an image. It adds up the gradients of factors that it shares with
 * other items on its own; these are joined in the items' order at the end, so that every number is
 * computed the same way whatever the count of threads.
 */
#include "rows.h"

typedef fv_scale_arguments fv_arguments;

enum { MOST = 3 };

/* What of a factor the slices of an item meet, in the order of the map's axes, rows padded to whole
 * vectors; and its gradient. */
typedef struct {
  const fv_view *view, *gradient;
  bool outer, middle, inner;  /* along which axes it differs */
  ptrdiff_t slice, row, size; /* from slice to slice, from row to row, of all */
  float *values, *sums;
} fv_factor;

typedef struct {
  fv_factor of[MOST];
  int count;
} fv_factors;

static fv_factors factors_of(const fv_arguments *a, int64_t slices) {
  const fv_view *views[MOST] = {&a->first, &a->second, &a->third};
  const fv_view *gradients[MOST] = {&a->d_first, &a->d_second, &a->d_third};
  fv_factors all = {.count = 0};
  for (int i = 0; i < MOST && views[i]->data; ++i) {
    fv_factor *f = &all.of[all.count++];
    f->view = views[i], f->gradient = gradients[i];
    f->outer = views[i]->row != 0, f->middle = views[i]->column != 0;
    f->inner = views[i]->channel != 0;
    const ptrdiff_t wide = f->inner ? fv_round_up(a->inner, L) : 1;
    f->row = f->middle ? wide : 0;
    const ptrdiff_t slice = f->middle ? a->middle * wide : wide;
    f->slice = f->outer ? slice : 0;
    f->size = f->outer ? slices * slice : slice;
  }
  return all;
}

static void plan(fv_arena *arena, fv_factors *all, bool backward) {
  for (int i = 0; i < all->count; ++i) {
    all->of[i].values = fv_take(arena, all->of[i].size);
    all->of[i].sums = fv_take(arena, backward ? all->of[i].size : 0);
  }
}

/* Between a view and slices in the order of the map's axes: a copy, innermost along the outer axis
 * where that is together in memory. */
static void copy(const fv_arguments *a, const fv_factor *f, const fv_view *v, int64_t b,
                 fv_range slices, float *values, const bool from_view) {
  const int64_t outer = f->outer ? slices.end - slices.begin : 1;
  const int64_t middle = f->middle ? a->middle : 1, inner = f->inner ? a->inner : 1;
  float *start = (float *)v->data + b * v->image + (f->outer ? slices.begin * v->row : 0);
#define COPY(o, m, n)                                                       \
  do {                                                                      \
    float *there = start + (o) * v->row + (m) * v->column + (n) * v->channel; \
    float *here = values + (o) * f->slice + (m) * f->row + (n);             \
    if (from_view)                                                          \
      *here = *there;                                                       \
    else                                                                    \
      *there = *here;                                                       \
  } while (0)
  if (v->row == 1) {
    for (int64_t m = 0; m < middle; ++m)
      for (int64_t n = 0; n < inner; ++n)
        for (int64_t o = 0; o < outer; ++o) COPY(o, m, n);
  } else {
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t m = 0; m < middle; ++m)
        for (int64_t n = 0; n < inner; ++n) COPY(o, m, n);
  }
#undef COPY
}

/* A row of each factor: where it is, and whether it is one number. */
typedef struct {
  float *values[MOST], *sums[MOST];
  fv_f same[MOST];
  bool one[MOST];
} fv_row;

FV_INLINE fv_row row_of(const fv_factors *all, const int count, int64_t slice, int64_t m) {
  fv_row row;
  for (int i = 0; i < count; ++i) {
    const fv_factor *f = &all->of[i];
    const ptrdiff_t at = slice * f->slice + m * f->row;
    row.values[i] = f->values + at;
    row.sums[i] = f->sums + at;
    row.one[i] = !f->inner;
    row.same[i] = fv_set(row.values[i][0]);
  }
  return row;
}

FV_INLINE fv_f number(const fv_row *row, int i, int64_t n) {
  return row->one[i] ? row->same[i] : fv_load(row->values[i] + n);
}

/* The factor of x that `count` factors give. */
FV_INLINE fv_f combined(const fv_row *row, const int combination, const int count, int64_t n,
                        fv_f x) {
  fv_f f = number(row, 0, n);
  if (combination == COMBINATION_SIGN) return fv_select(x < (fv_f){0}, number(row, 1, n), f);
  for (int i = 1; i < count; ++i)
    f = combination == COMBINATION_MEAN ? f + number(row, i, n) : f * number(row, i, n);
  return combination == COMBINATION_MEAN ? f * (1.f / (float)count) : f;
}

/* The rows of a slice of the item, `left` numbers before the end of the work item. */
FV_INLINE void slice_forward(const fv_arguments *a, const fv_factors *all, const int combination,
                             const int count, int64_t slice, ptrdiff_t left, const float *x,
                             float *out) {
  for (int64_t m = 0; m < a->middle; ++m, x += a->inner, out += a->inner, left -= a->inner) {
    const fv_row row = row_of(all, count, slice, m);
    for (int64_t n = 0; n < a->inner; n += L) {
      const fv_f v = load_at(x, n, a->inner, left);
      store_at(out, n, a->inner, left, v * combined(&row, combination, count, n, v));
    }
  }
}

/* What the gradient t of the whole factor is to one of those that it is made of. */
FV_INLINE fv_f share(const fv_row *row, const int combination, const int count, int i, int64_t n,
                     fv_f x, fv_f t) {
  if (combination == COMBINATION_SIGN)
    return i == 0 ? fv_select(x < (fv_f){0}, (fv_f){0}, t) : fv_select(x < (fv_f){0}, t, (fv_f){0});
  if (combination == COMBINATION_MEAN) return t * (1.f / (float)count);
  for (int other = 0; other < count; ++other)
    if (other != i) t *= number(row, other, n);
  return t;
}

FV_INLINE void slice_backward(const fv_arguments *a, const fv_factors *all, const int combination,
                              const int count, int64_t slice, ptrdiff_t left, const float *x,
                              const float *grad, float *dx) {
  const int64_t length = a->inner;
  for (int64_t m = 0; m < a->middle; ++m, x += length, grad += length, dx += length) {
    const fv_row row = row_of(all, count, slice, m);
    fv_f whole[MOST] = {{0}, {0}, {0}};
    for (int64_t n = 0; n < length; n += L) {
      const fv_f v = load_at(x, n, length, left), g = load_at(grad, n, length, left);
      store_at(dx, n, length, left, g * combined(&row, combination, count, n, v));
      for (int i = 0; i < count; ++i) {
        const fv_f d =
            first_lanes(share(&row, combination, count, i, n, v, g * v), length - n);
        if (row.one[i])
          whole[i] += d;
        else
          fv_store(row.sums[i] + n, fv_load(row.sums[i] + n) + d);
      }
    }
    for (int i = 0; i < count; ++i)
      if (row.one[i]) row.sums[i][0] += sum_of(whole[i]);
    left -= length;
  }
}

static void each_row(const fv_arguments *a, const fv_factors *all, int64_t slice, ptrdiff_t at,
                     ptrdiff_t left) {
#define CASE(combination, count)                                                             \
  if (a->grad_out)                                                                           \
    slice_backward(a, all, combination, count, slice, left, a->x + at, a->grad_out + at,     \
                   a->out + at);                                                             \
  else                                                                                       \
    slice_forward(a, all, combination, count, slice, left, a->x + at, a->out + at)
  if (a->combination == COMBINATION_SIGN) {
    CASE(COMBINATION_SIGN, 2);
  } else if (all->count == 1) {
    CASE(COMBINATION_PRODUCT, 1);
  } else if (a->combination == COMBINATION_PRODUCT && all->count == 2) {
    CASE(COMBINATION_PRODUCT, 2);
  } else if (a->combination == COMBINATION_PRODUCT) {
    CASE(COMBINATION_PRODUCT, 3);
  } else if (all->count == 2) {
    CASE(COMBINATION_MEAN, 2);
  } else {
    CASE(COMBINATION_MEAN, 3);
  }
#undef CASE
}

static void item(const fv_arguments *a, const fv_factors *all, int64_t b, fv_range slices) {
  const ptrdiff_t plane = a->middle * a->inner;
  for (int i = 0; i < all->count; ++i) {
    const fv_factor *f = &all->of[i];
    copy(a, f, f->view, b, slices, f->values, true);
    if (a->grad_out) memset(f->sums, 0, (size_t)f->size * sizeof(float));
  }
  for (int64_t o = slices.begin; o < slices.end; ++o)
    each_row(a, all, o - slices.begin, (b * a->outer + o) * plane, (slices.end - o) * plane);
  for (int i = 0; i < all->count && a->grad_out; ++i) {
    const fv_factor *f = &all->of[i];
    if (f->outer) copy(a, f, f->gradient, b, slices, f->sums, false);
  }
}

/* The gradients of factors that are the same for all slices, from the items of an image. */
static void join(const fv_arguments *a, const fv_factors *sketch, float *memory, size_t each,
                 int64_t b, int64_t items) {
  fv_factors all = *sketch, other = *sketch;
  fv_arena arena = {memory + (size_t)(b * items) * each, 0};
  plan(&arena, &all, true);
  for (int64_t i = 1; i < items; ++i) {
    arena = (fv_arena){memory + (size_t)(b * items + i) * each, 0};
    plan(&arena, &other, true);
    for (int k = 0; k < all.count; ++k)
      if (!all.of[k].outer)
        for (ptrdiff_t p = 0; p < all.of[k].size; ++p) all.of[k].sums[p] += other.of[k].sums[p];
  }
  for (int k = 0; k < all.count; ++k) {
    const fv_factor *f = &all.of[k];
    if (!f->outer) copy(a, f, f->gradient, b, (fv_range){0, 1}, f->sums, false);
  }
}

/* Whether a factor is the same all over a slice, or as contiguous there as the map is. */
static bool is_plain(const fv_arguments *a, const fv_view *v) {
  return !v->data || (!v->column && !v->channel) || v->column == v->channel * a->inner;
}

/* Arguments whose rows are whole slices, where all factors allow it. */
static fv_arguments with_long_rows(const fv_arguments *a) {
  fv_arguments merged = *a;
  if (!is_plain(a, &a->first) || !is_plain(a, &a->second) || !is_plain(a, &a->third) ||
      !is_plain(a, &a->d_first) || !is_plain(a, &a->d_second) || !is_plain(a, &a->d_third))
    return merged;
  merged.inner = a->middle * a->inner;
  merged.middle = 1;
  return merged;
}

static int run(const fv_arguments *given) {
  const fv_arguments merged = with_long_rows(given), *a = &merged;
  assert(a->threads > 0 && a->outer > 0 && a->middle > 0 && a->inner > 0 && a->batch >= 0);
  if (!a->batch) return 0;
  assert(a->x && a->out && a->first.data);
  const bool backward = a->grad_out;
  const int64_t items = items_of(a->outer);
  fv_factors sketch = factors_of(a, (a->outer + items - 1) / items);
  assert(a->combination != COMBINATION_SIGN || sketch.count == 2);
  fv_arena own = {0};
  plan(&own, &sketch, backward);
  const size_t places = (size_t)(backward ? a->batch * items : a->threads);
  float *memory = fv_alloc(places * own.used);
  if (!memory) return 1;
#pragma omp parallel num_threads((int)a->threads) if (a->threads > 1)
  {
    fv_factors all = sketch;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->batch * items; ++i) {
      fv_arena arena = {memory + (size_t)(backward ? i : fv_thread()) * own.used, 0};
      plan(&arena, &all, backward);
      item(a, &all, i / items, fv_split(a->outer, items, i % items));
    }
    if (backward) {
#pragma omp for schedule(static)
      for (int64_t b = 0; b < a->batch; ++b) join(a, &sketch, memory, own.used, b, items);
    }
  }
  fv_free(memory);
  return 0;
}

/* Both return 0, or 1 when there is no memory. */
FV_EXPORT int FV(scale_forward)(const fv_arguments *a) {
  assert(!a->grad_out);
  return run(a);
}

FV_EXPORT int FV(scale_backward)(const fv_arguments *a) {
  assert(!a->batch || (a->grad_out && a->d_first.data));
  return run(a);
}
