// Any number of channels that is a multiple of 64, brought and taken away by Hopper's own copying machine: a warp asks
// for boxes of pixels and filters as room comes free, and groups of four warps multiply what is there. Nobody works out
// addresses.
//
// RESIDENT: 64 channels. Filters stay, and each group answers tiles of its own, with two rooms for pixels: while one
// group writes, the other multiplies. Else all groups answer a tile together: a step is 128 bytes of channels at one
// place of the filter, pixels have two rooms of these and filters as many as there are SLOTS.
//
// EIGHT_BIT: pixels and filters are e4m3, and a step is 128 channels, the last perhaps 64: nothing comes of the others.
// Sums have a scale for each column.
//
// With several PARTS each block of a cluster has some of the channels, for one tile.
//
// DOUBLED, where filters stay: each pixel counts as four. Even and odd pixels of a doubled picture have filters of two
// times two places of the picture's own, sums of the filter's; a block has those of even or of odd lines.

#define WHOLE_PICTURE ((PICTURE + 1023) / 1024 * 1024)  // so that each room is swizzled as the first
#define PICTURE_ROOMS (RESIDENT ? 2 * GROUPS : 2)
#define FILTER_ROOMS (DOUBLED ? 8 : RESIDENT ? 9 : SLOTS)
#define STAGED (PARTS == 1 && GROUP_COLUMNS >= 64)  // whether answers go by boxes of 64 columns
#define REGION_HEIGHT (8 * GROUP_BLOCKS / BLOCKS_ACROSS)  // lines that a group answers
#define REGION (REGION_HEIGHT * TILE_WIDTH * 128)         // bytes: 64 columns of them
#define ANSWER (STAGED ? GROUP_COLUMNS / 64 * REGION : 0)
#define AFTER_FILTERS (PICTURE_ROOMS * WHOLE_PICTURE + FILTER_ROOMS * FILTER)
#define AFTER_ANSWERS (AFTER_FILTERS + GROUPS * ANSWER)
#define AFTER_TERMS (AFTER_ANSWERS + TERMS * 4 * COLUMNS)

static_assert(GROUP_BLOCKS % BLOCKS_ACROSS == 0 || PARTS > 1 || !STAGED, "a group answers whole lines of blocks");
static_assert(PARTS == 1 || BLOCKS * 64 * COLUMNS * 4 <= AFTER_FILTERS, "sums lie where pixels and filters were");
static_assert(PARTS > 1 || STAGED || RESIDENT, "what is stepped answers 64 columns and more");
static_assert(FILTER_ROOMS > 1, "a filter's room is free one step after it was read");

struct Barriers {
    word first;

    __device__ word pixels_there(int room) const { return first + room * 8; }
    __device__ word pixels_free(int room) const { return first + (PICTURE_ROOMS + room) * 8; }
    __device__ word filter_there(int room) const { return first + (2 * PICTURE_ROOMS + room) * 8; }
    __device__ word filter_free(int room) const { return first + (2 * PICTURE_ROOMS + FILTER_ROOMS + room) * 8; }
    __device__ word residual_there(int group) const {
        return first + (2 * PICTURE_ROOMS + 2 * FILTER_ROOMS + group) * 8;
    }

    __device__ void make() const {
        const int readers = RESIDENT ? 4 : 4 * GROUPS;  // warps
        for (int room = 0; room < PICTURE_ROOMS; ++room) {
            make_barrier(pixels_there(room), 1);
            make_barrier(pixels_free(room), readers);
        }
        for (int room = 0; room < FILTER_ROOMS; ++room) {
            make_barrier(filter_there(room), 1);
            make_barrier(filter_free(room), readers);
        }
        for (int group = 0; group < GROUPS; ++group) make_barrier(residual_there(group), 1);
        show_barriers();
    }
};

#if DOUBLED
// The filters of even and odd pixels in a line of this kind, summed from those of three times three places.
__device__ __forceinline__ void sum_filters(unsigned char* to, const value* weight, int line, int column, int columns) {
    for (int unit = threadIdx.x; unit < 8 * COLUMNS * 8; unit += THREADS) {
        const int eighth = unit % 8, row = unit / 8 % COLUMNS, place = unit / 8 / COLUMNS;
        const int down = place / 2 % 2, right = place % 2, pixel = place / 4;
        const int top = down + (line && down), left = right + (pixel && right);  // 0 and 1, or 0 and 2
        const int high = line == down ? 1 : 2, wide = pixel == right ? 1 : 2;
        float sums[8] = {};
        for (int y = top; y < top + high; ++y) {
            for (int at = left; at < left + wide; ++at) {
                if (column + row >= columns) continue;
                const uint4 from =
                    *reinterpret_cast<const uint4*>(weight + ((column + row) * 9 + y * 3 + at) * 64 + eighth * 8);
                const word words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
                for (int two = 0; two < 4; ++two) {
                    sums[2 * two] += as_float(words[two] & 0xFFFF);
                    sums[2 * two + 1] += as_float(words[two] >> 16);
                }
            }
        }
        word* made = reinterpret_cast<word*>(to + place * FILTER + row * 128 + (eighth ^ row % 8) * 16);
        for (int two = 0; two < 4; ++two) made[two] = packed(sums[2 * two], sums[2 * two + 1]);
    }
    show_to_products();
}
#endif

// Where the next of so many rooms is, and how often all were gone through.
template <int rooms>
struct Turn {
    int room = 0, parity = 0;

    __device__ void advance() {
        if (++room == rooms) room = 0, parity ^= 1;
    }
};

// What a group does with its sums: what follows a convolution, and the way to memory through shared memory. A residual
// comes the same way, and lies where the answer will.
struct Answers {
    const TensorMap* map;
    const TensorMap* residuals;
    const float* terms;
    word place, there;
    int column, inside, group;
    int parity = 0;

    __device__ void ask_for_residual(Tile region) {
#if RESIDUAL
        if (threadIdx.x % 128 == 0) {
            wait_for_stores();
            expect(there, ANSWER);
            for (int part = 0; part < GROUP_COLUMNS / 64; ++part)
                load_box(
                    place + part * REGION, residuals, column + inside + part * 64, region.left, region.top,
                    region.sample, there
                );
        }
#endif
    }

    // With DOUBLED of the pixels of this number in lines of this number, 0 or 1 each.
    __device__ void give(Sums& sums, Tile region, int height, int line_of_two, int pixel_of_two) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#if RESIDUAL
        wait_for(there, parity);
        parity ^= 1;
#else
        if (threadIdx.x % 128 == 0) wait_for_stores();
        meet_group(group);
#endif
#pragma unroll
        for (int block = 0; block < GROUP_BLOCKS; ++block) {
            const int line = block / BLOCKS_ACROSS * 8 + warp * 2 + lane / 8 % 2;
            const int pixel = line * TILE_WIDTH + block % BLOCKS_ACROSS * 8 + lane % 8;
#pragma unroll
            for (int sixteen = 0; sixteen < GROUP_COLUMNS / 16; ++sixteen) {
                const int eighth = sixteen % 4 * 2 + lane / 16;
                const word address = place + sixteen / 4 * REGION + pixel * 128 + (eighth ^ lane % 8) * 16;
                word words[4];
#if RESIDUAL
                load_blocks(words, address);
#endif
#pragma unroll
                for (int index = 0; index < 4; ++index) {  // of lines 0 and 1, then of the next eight columns
                    const float* two = &sums[block][sixteen * 8 + index * 2];
                    const int to = inside + sixteen * 16 + index / 2 * 8 + lane % 4 * 2;
                    float2 sum = with_terms(two[0], two[1], terms, to);
#if RESIDUAL
                    sum.x += as_float(words[index] & 0xFFFF);
                    sum.y += as_float(words[index] >> 16);
#endif
                    words[index] = packed(activated(sum.x), activated(sum.y));
                }
                store_blocks(address, words);
            }
        }
        show_to_products();
        meet_group(group);
        if (threadIdx.x % 128 == 0) {
            for (int part = 0; part < GROUP_COLUMNS / 64; ++part) {
                const int to = column + inside + part * 64;
#if DOUBLED
                const int line = region.sample * height + region.top;
                store_doubled_box(map, to, pixel_of_two, region.left, line_of_two, line, place + part * REGION);
#else
                store_box(map, to, region.left, region.top, region.sample, place + part * REGION);
#endif
            }
        }
    }
};

#if PARTS > 1
#define CLUSTER __cluster_dims__(1, 1, PARTS)
#else
#define CLUSTER
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, 1) hopper_convolution(
    const __grid_constant__ TensorMap picture_map, const __grid_constant__ TensorMap filter_map,
    const __grid_constant__ TensorMap residual_map, const __grid_constant__ TensorMap answer_map, const value* weight,
    const value* bias, const value* more, const value* residual, const float* scales, value* out, int tiles, int height,
    int width, int channels, int columns, int part_channels
) {
    const word pictures = shared_address(shared), filters = pictures + PICTURE_ROOMS * WHOLE_PICTURE;
    float* terms = reinterpret_cast<float*>(shared + AFTER_ANSWERS);
    const Barriers barriers = {pictures + AFTER_TERMS};
    const int column = blockIdx.y * COLUMNS;
    const int first = blockIdx.z * part_channels, end = min(channels, first + part_channels);
    const int group = same_for_warp(threadIdx.x / 128);
    if (threadIdx.x == 0) barriers.make();
#if DOUBLED
    sum_filters(shared + PICTURE_ROOMS * WHOLE_PICTURE, weight, blockIdx.z, column, columns);
#endif
    load_terms(terms, bias, more, scales, column, columns);
    __syncthreads();
    if (group == GROUPS) {
        if (threadIdx.x % 32) return;
#if RESIDENT
        for (int round = 0; round * gridDim.x * GROUPS < tiles; ++round) {
            for (int of = 0; of < GROUPS; ++of) {
                const int number = (round * gridDim.x + blockIdx.x) * GROUPS + of, room = 2 * of + round % 2;
                if (number >= tiles) break;
                const Tile tile = tile_of(number, height, width);
                wait_for(barriers.pixels_free(room), round / 2 % 2 ^ 1);
                const word there = barriers.pixels_there(room);
                expect(there, PICTURE);
                load_box(
                    pictures + room * WHOLE_PICTURE, &picture_map, 0, tile.left - 1, tile.top - 1, tile.sample, there
                );
            }
            for (int place = 0; !DOUBLED && round == 0 && place < 9; ++place) {
                expect(barriers.filter_there(place), FILTER);
                load_box(
                    filters + place * FILTER, &filter_map, 0, place, column, 0, barriers.filter_there(place)
                );
            }
        }
#else
        Turn<PICTURE_ROOMS> at;
        Turn<FILTER_ROOMS> turn;
        for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
            const Tile tile = tile_of(number, height, width);
            for (int channel = first; channel < end; channel += STEP_CHANNELS) {
                wait_for(barriers.pixels_free(at.room), at.parity ^ 1);
                const word there = barriers.pixels_there(at.room);
                expect(there, PICTURE);
                load_box(
                    pictures + at.room * WHOLE_PICTURE, &picture_map, channel, tile.left - 1, tile.top - 1, tile.sample,
                    there
                );
                at.advance();
                for (int place = 0; place < 9; ++place) {
                    wait_for(barriers.filter_free(turn.room), turn.parity ^ 1);
                    expect(barriers.filter_there(turn.room), FILTER);
                    load_box(
                        filters + turn.room * FILTER, &filter_map, channel, place, column, 0,
                        barriers.filter_there(turn.room)
                    );
                    turn.advance();
                }
            }
        }
#endif
        return;
    }
    const bool tells = threadIdx.x % 32 == 0;
    const int inside = group % GROUPS_OF_COLUMNS * GROUP_COLUMNS;
    const word place_of_answer = pictures + AFTER_FILTERS + group * ANSWER;
    Answers answers = {
        &answer_map, &residual_map, terms, place_of_answer, barriers.residual_there(group), column, inside, group
    };
    Sums sums;
#if RESIDENT
    for (int round = 0;; ++round) {
        const int number = (round * gridDim.x + blockIdx.x) * GROUPS + group, room = 2 * group + round % 2;
        if (number >= tiles) break;
        const Tile tile = tile_of(number, height, width);
#if STAGED
        answers.ask_for_residual(tile);
#endif
        wait_for(barriers.pixels_there(room), round / 2 % 2);
        const word picture = pictures + room * WHOLE_PICTURE;
#if DOUBLED
#pragma unroll 1
        for (int pixel = 0; pixel < 2; ++pixel) {
            begin_products();
#pragma unroll 1
            for (int place = 0; place < 4; ++place) {
                const int shift = (place / 2 + blockIdx.z) * SEEN_WIDTH + place % 2 + pixel;
                multiply_place(sums, picture, filters + (pixel * 4 + place) * FILTER, shift, 0, place == 0);
            }
            commit_products();
            wait_for_products<0>();
            if (tells && pixel) arrive(barriers.pixels_free(room));
            answers.give(sums, tile, height, blockIdx.z, pixel);
        }
#else
#pragma unroll 1
        for (int place = 0; place < 9; ++place) {
            wait_for(barriers.filter_there(place), 0);
            begin_products();
            const int shift = place / 3 * SEEN_WIDTH + place % 3;
            multiply_place(sums, picture, filters + place * FILTER, shift, 0, place == 0);
            commit_products();
        }
        wait_for_products<0>();
        if (tells) arrive(barriers.pixels_free(room));
#if STAGED
        answers.give(sums, tile, height, 0, 0);
#else
        finish(sums, terms, nullptr, out, tile, height, width, column, columns, 0);
#endif
#endif
    }
#else
    Turn<PICTURE_ROOMS> at;
    Turn<FILTER_ROOMS> turn;
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
        const Tile tile = tile_of(number, height, width);
        const Tile region = {tile.sample, tile.top + group / GROUPS_OF_COLUMNS * REGION_HEIGHT, tile.left};
#if STAGED
        answers.ask_for_residual(region);
#endif
        int filter_before = -1, picture_before = -1;
        for (int channel = first; channel < end; channel += STEP_CHANNELS) {
            wait_for(barriers.pixels_there(at.room), at.parity);
            const word picture = pictures + at.room * WHOLE_PICTURE;
#pragma unroll 1
            for (int place = 0; place < 9; ++place) {
                wait_for(barriers.filter_there(turn.room), turn.parity);
                const int shift = place / 3 * SEEN_WIDTH + place % 3;
                const bool begins = channel == first && place == 0;
                const word filter = filters + turn.room * FILTER;
                if (EIGHT_BIT && end - channel < STEP_CHANNELS) {
                    begin_products();  // in each branch: else the compiler adds another
                    multiply_place<2>(sums, picture, filter, shift, group, begins);
                    commit_products();
                } else {
                    begin_products();
                    multiply_place(sums, picture, filter, shift, group, begins);
                    commit_products();
                }
                wait_for_products<1>();  // the step before has read all that it reads
                if (tells && filter_before >= 0) arrive(barriers.filter_free(filter_before));
                if (tells && place == 0 && picture_before >= 0) arrive(barriers.pixels_free(picture_before));
                filter_before = turn.room;
                turn.advance();
            }
            picture_before = at.room;
            at.advance();
        }
        wait_for_products<0>();
        if (tells) {
            arrive(barriers.filter_free(filter_before));
            arrive(barriers.pixels_free(picture_before));
        }
#if PARTS > 1  // the only tile of this block: where pixels and filters were, sums may lie
        meet_threads(128 * GROUPS);
        keep_part(sums, group);
        meet_cluster();
        add_parts(terms, residual, out, tile, height, width, column, columns);
        meet_cluster();  // nobody ends before all have read
#else
        answers.give(sums, region, height, 0, 0);
#endif
    }
#endif
    if (threadIdx.x % 128 == 0) wait_for_stores();  // shared memory is to last until they were read
}
