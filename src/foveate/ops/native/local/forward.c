/* Local attention, forward: see pack.h for how the keys lie.
 *
 * For a block of query rows and one tile: logits (dot_block), softmax over the window of each
 * lane, weighted values (weigh_block). Threads share all rows of all work items in contiguous
 * ranges.
 */
#include "logits.h"

enum { STRIP = 96 }; /* columns: many beside the halo, with packed rows of a few 100 KB */

typedef struct {
  fv_arena arena;
  fv_pack keys, values;
  float *q, *logits, *out, *table, *each;
  int *place;
  fv_pass *passes;
} fv_workspace;

static void plan(fv_workspace *w, const fv_arguments *a, int tiles) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim;
  const ptrdiff_t window = (ptrdiff_t)a->kernel_h * a->kernel_w * L;
  w->keys = plan_pack(&w->arena, a, dim, is_masked(a), tiles);
  w->values = plan_pack(&w->arena, a, value_dim, 0, tiles);
  w->q = fv_take(&w->arena, (ptrdiff_t)ROWS * dim * L);
  w->out = fv_take(&w->arena, (ptrdiff_t)ROWS * value_dim * L);
  w->logits = fv_take(&w->arena, ROWS * window);
  w->table = fv_take(&w->arena, a->bias_kind == BIAS_TABLE ? (tiles + 1) * table_size(a) : 0);
  w->each = fv_take(&w->arena, a->bias_kind == BIAS_EACH ? window : 0);
  w->place = fv_take_bytes(&w->arena, tiles * (ptrdiff_t)sizeof(int));
  w->passes = take_passes(&w->arena, a);
}

/* The weights of one row of a tile, not yet divided by their sum; returns sum and log2-sum-exp. */
static fv_f softmax_row(float *logits, int taps, fv_f *log_sum) {
  fv_f top;
  const fv_f sum = fv_exp2_column(logits, L, taps, &top);
  *log_sum = fv_select(sum == 0.f, fv_set(-INFINITY), top + fv_log2(sum));
  return sum;
}

static void finish(const fv_arguments *a, const fv_map *m, int y, int tile, const float *out,
                   fv_f sum, fv_f log_sum) {
  const int lanes = lanes_of(m, tile);
  const fv_f inverse = 1.f / fv_select(sum == 0.f, fv_set(1.f), sum);
  const int64_t query = query_place(a, m, y, tile * L), next = a->dilation_w * a->heads;
  const ptrdiff_t bytes = a->value_dim * fv_bytes((int)a->storage);
  fv_scatter((int)a->storage, out, (char *)a->out + query * bytes, next * bytes, (int)a->value_dim,
             lanes, inverse);
  if (!a->lse) return;
  float *lse = a->lse + query;
  log_sum *= FV_LN2;
  for (int i = 0; i < lanes; ++i) lse[i * next] = log_sum[i];
}

static void tile_forward(const fv_arguments *a, const fv_workspace *w, const fv_map *m,
                         const fv_block *b, const fv_planes *queries, int tile) {
  const int dim = (int)a->dim, value_dim = (int)a->value_dim, next = b->y + b->rows;
  fv_ahead first = {0}, second = {0}; /* for dot_block and for weigh_block to prefetch */
  const float *q[ROWS];
  fv_f sum[ROWS], log_sum[ROWS];
  for (int r = 0; r < b->rows; ++r) {
    const char *lanes[L];
    float *to = w->q + (ptrdiff_t)r * dim * L;
    lanes_at(&queries->here, b->y + r, tile * L, m->width, lanes);
    fv_gather(queries->here.storage, lanes, to, L, dim, (float)a->run.scale * FV_LOG2E);
    q[r] = to;
  }
  add_rows_ahead(&first, &w->keys, b->key_end, next, tile);
  add_rows_ahead(&second, &w->values, b->key_end, next, tile);
  add_part_ahead(&first, queries, next, next + ROWS, m->height, tile * L, lanes_of(m, tile), dim);
  add_queries_ahead(&second, a, m, a->out, b, tile, value_dim, (int)a->storage);
  dot_block(m, b, q, L, dim, &w->keys, tile, &first, w->logits);
  const float *table = w->table;
  if (a->bias_kind == BIAS_TABLE) table += w->place[tile - m->tile_begin] * table_size(a);
  for (int r = 0; r < b->rows; ++r) {
    float *logits = w->logits + r * window_floats(m);
    add_to_logits(a, m, b, r, &w->keys, tile, table, w->each, logits);
    sum[r] = softmax_row(logits, m->kernel_h * m->kernel_w, &log_sum[r]);
    if (a->run.threshold) {
      const fv_dropout dropout = fv_dropout_of(&a->run);
      const fv_u words = dropout_words(a, m, &dropout, b->y + r, tile);
      fv_drop(&dropout, words, NULL, m->kernel_h * m->kernel_w, logits, logits, L);
    }
  }
  memset(w->out, 0, (size_t)(b->rows * value_dim * L) * sizeof(float));
  weigh_block(m, b, w->logits, &w->values, value_dim, tile, &second, w->out);
  for (int r = 0; r < b->rows; ++r)
    finish(a, m, b->y + r, tile, w->out + (ptrdiff_t)r * value_dim * L, sum[r], log_sum[r]);
}

/* Rows [begin, end) of one work item; `after` is the next one's map or NULL. */
static void rows_forward(const fv_arguments *a, fv_workspace *w, const fv_map *m,
                         const fv_map *after, int begin, int end) {
  const fv_planes queries = planes_of(a, m, after, &a->q, a->storage);
  if (end > m->height) end = m->height;
  pack_start(&w->keys, m, planes_of(a, m, after, &a->k, a->storage));
  pack_start(&w->values, m, planes_of(a, m, after, &a->v, a->storage));
  mask_keys(&w->keys, a, m);
  mask_keys(&w->values, a, m);
  if (a->bias_kind == BIAS_TABLE) tables_of_strip(a, m, w->place, w->table);
  for (int y = begin; y < end;) {
    const fv_block block = block_at(m, y, end, &w->keys, w->passes);
    y += block.rows;
    pack_rows(&w->keys, block.key_begin, block.key_end);
    pack_rows(&w->values, block.key_begin, block.key_end);
    for (int tile = m->tile_begin; tile < m->tile_end; ++tile)
      tile_forward(a, w, m, &block, &queries, tile);
  }
}

/* Returns 0, or 1 when there is no memory. */
FV_EXPORT int FV(local_forward)(const fv_arguments *a) {
  check_arguments(a);
  assert(a->out || !a->batch);
  const int64_t strips = strips_of(a, STRIP / L);
  const int64_t height = class_length(a->height, a->dilation_h, 0);
  const int64_t rows = item_count(a, strips) * height;
  int failed = 0;
  expect_writes(a, a->out, a->height, a->width, a->value_dim);
#pragma omp parallel num_threads((int)a->run.threads) reduction(| : failed)
  {
    fv_workspace w = {0};
    plan(&w, a, strip_tiles(a, strips));
    float *memory = fv_alloc(w.arena.used);
    if (memory) {
      w.arena = (fv_arena){memory, 0};
      plan(&w, a, strip_tiles(a, strips));
      fv_range mine = fv_split(rows, fv_threads(), fv_thread());
      while (mine.begin < mine.end) {
        const int64_t number = mine.begin / height, first = number * height;
        const int64_t end = first + height < mine.end ? first + height : mine.end;
        const fv_map map = map_of(a, strips, number), after = map_of(a, strips, number + 1);
        if (map.tile_begin < map.tile_end)
          rows_forward(a, &w, &map, end < mine.end ? &after : NULL, (int)(mine.begin - first),
                       (int)(end - first));
        mine.begin = end;
      }
      fv_free(memory);
    } else {
      failed = 1;
    }
  }
  return failed;
}
