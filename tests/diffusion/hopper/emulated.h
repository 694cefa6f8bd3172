// Blocks of a GPU's threads on a processor, one fiber for each thread: what `primitives.cu` has in Hopper's own
// instructions. Blocks of a cluster run at the same time, others one after the other.
//
// Where it is `late` boxes come and go, and products read, only when somebody waits for them; else all happens at once.
// A kernel that is right has the same answer either way. What it cannot show is a fence that is missing between what
// threads write and what products or copying machines read: fences do nothing here.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <ucontext.h>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __expf expf
using std::max;
using std::min;

typedef unsigned int word;
typedef unsigned short value;
typedef unsigned long long wide_word;
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { word x, y; };
struct uint4 { word x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }
static uint2 make_uint2(word x, word y) { return {x, y}; }
static uint4 make_uint4(word x, word y, word z, word w) { return {x, y, z, w}; }
struct Number3 { int x = 0, y = 0, z = 0; };

struct TensorMap {
    unsigned char* base;
    long bytes, sizes[5], strides[4], box[5];  // of a value first
};
struct Box {
    const TensorMap* map;
    int at[5];
    word place, barrier;
};
struct Product { float* sums; wide_word a, b; int adds; };
struct Meeting { int arrived = 0, round = 0; };
struct Arrivals { int wanted, came, bytes, phase; };
struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool ended = false;
    std::deque<Box> stores;
    std::vector<Product> products;
    std::deque<std::vector<Product>> product_groups;
};
struct Block {
    alignas(1024) unsigned char memory[232448];
    std::vector<Thread> threads;
    int ended = 0;
    Meeting all, some, groups[THREADS / 128 + 1], warps[THREADS / 32];
    word lanes[THREADS];
    std::map<word, Arrivals> barriers;
    std::deque<Box> loads;
};

static Number3 threadIdx, blockIdx, gridDim;
static std::vector<Block> cluster;
static Block* block;
static Meeting of_cluster;
static ucontext_t scheduler;
static long idle;
static bool late;
#define shared (block->memory)

static const char* failure;

static Thread& mine() { return block->threads[threadIdx.x]; }

// Leaves everything as it is, for good.
static void fail(const char* why) {
    failure = why;
    swapcontext(&mine().context, &scheduler);
}

static void give_way() {
    if (++idle > 20000000) fail("nobody goes on");
    swapcontext(&mine().context, &scheduler);
}

static void meet(Meeting& meeting, int members) {
    const int round = meeting.round;
    if (++meeting.arrived == members) meeting.arrived = 0, ++meeting.round;
    while (meeting.round == round) give_way();
}

static void __syncthreads() { meet(block->all, THREADS); }
static void meet_threads(int threads) { meet(block->some, threads); }
static void meet_group(int group) { meet(block->groups[group], 128); }
static void meet_cluster() { meet(of_cluster, 128 * GROUPS * cluster.size()); }

static word shared_address(const void* pointer) { return static_cast<const unsigned char*>(pointer) - shared; }

static float4 of_block(word address, int number) {
    float4 made;
    memcpy(&made, cluster[number].memory + address, 16);
    return made;
}

static void look_at(Arrivals& barrier) {
    if (barrier.came == barrier.wanted && barrier.bytes == 0) barrier.came = 0, ++barrier.phase;
}

static void make_barrier(word barrier, int arrivals) {
    if (barrier % 8) fail("a barrier lies between eight bytes");
    block->barriers[barrier] = {arrivals, 0, 0, 0};
}

static void show_barriers() {}

static void arrive(word barrier) {
    ++block->barriers.at(barrier).came;
    look_at(block->barriers.at(barrier));
}

static void expect(word barrier, int bytes) {
    block->barriers.at(barrier).bytes += bytes;
    arrive(barrier);
}

// Copies between a box and shared memory; `each` is told both places, the first null where nothing lies.
template <typename Each>
static int carry_out(const Box& box, const Each& each) {
    const TensorMap& map = *box.map;
    if (box.place % 1024) fail("a box is swizzled from between 1024 bytes on");
    word place = box.place;
    long offset[5];
    for (offset[4] = 0; offset[4] < map.box[4]; ++offset[4])
        for (offset[3] = 0; offset[3] < map.box[3]; ++offset[3])
            for (offset[2] = 0; offset[2] < map.box[2]; ++offset[2])
                for (offset[1] = 0; offset[1] < map.box[1]; ++offset[1])
                    for (offset[0] = 0; offset[0] < map.box[0]; ++offset[0], place += map.bytes) {
                        bool inside = true;
                        long from = 0;
                        for (int axis = 0; axis < 5; ++axis) {
                            const long at = box.at[axis] + offset[axis];
                            inside &= at >= 0 && at < map.sizes[axis];
                            from += at * (axis ? map.strides[axis - 1] : map.bytes);
                        }
                        each(inside ? map.base + from : nullptr, shared + (place ^ (place >> 7 & 7) << 4), map.bytes);
                    }
    return place - box.place;
}

static void carry_out_load(const Box& box) {
    Arrivals& barrier = block->barriers.at(box.barrier);
    barrier.bytes -= carry_out(box, [](const void* from, void* to, long bytes) {
        if (from) memcpy(to, from, bytes); else memset(to, 0, bytes);
    });
    look_at(barrier);
}

static void load_box(word to, const TensorMap* map, int channel, int x, int y, int z, word barrier) {
    const Box box = {map, {channel, x, y, z, 0}, to, barrier};
    if (late) block->loads.push_back(box); else carry_out_load(box);
}

static void wait_for(word barrier, int parity) {
    std::deque<Box>& loads = block->loads;
    while (block->barriers.at(barrier).phase % 2 == parity) {
        const auto found =
            std::find_if(loads.begin(), loads.end(), [&](const Box& box) { return box.barrier == barrier; });
        if (found == loads.end()) {
            give_way();
        } else {
            const Box box = *found;
            loads.erase(found);
            carry_out_load(box);
        }
    }
}

static void carry_out_store(const Box& box) {
    carry_out(box, [](void* to, const void* from, long bytes) { if (to) memcpy(to, from, bytes); });
}

static void store(const Box& box) {
    if (late) mine().stores.push_back(box); else carry_out_store(box);
}

static void store_box(const TensorMap* map, int channel, int x, int y, int z, word from) {
    store({map, {channel, x, y, z, 0}, from, 0});
}

static void store_doubled_box(const TensorMap* map, int channel, int pixel, int x, int line, int y, word from) {
    store({map, {channel, pixel, x, line, y}, from, 0});
}

static void wait_for_stores() {
    for (; !mine().stores.empty(); mine().stores.pop_front()) carry_out_store(mine().stores.front());
}

static word of_lane_across(word sent, int bit) {
    block->lanes[threadIdx.x] = sent;
    meet(block->warps[threadIdx.x / 32], 32);
    const word got = block->lanes[threadIdx.x ^ bit];
    meet(block->warps[threadIdx.x / 32], 32);
    return got;
}

static int same_for_warp(int number) { return number; }

// This lane's word of each of four blocks of values, whose rows other lanes have told.
static std::vector<unsigned char*> places_of_blocks(word address) {
    const int lane = threadIdx.x % 32, first = threadIdx.x - lane;
    block->lanes[threadIdx.x] = address;
    meet(block->warps[threadIdx.x / 32], 32);
    std::vector<unsigned char*> places;
    for (int index = 0; index < 4; ++index)
        places.push_back(shared + block->lanes[first + 8 * index + lane / 4] + lane % 4 * 4);
    meet(block->warps[threadIdx.x / 32], 32);
    return places;
}

static void load_blocks(word (&words)[4], word address) {
    const auto places = places_of_blocks(address);
    for (int index = 0; index < 4; ++index) memcpy(&words[index], places[index], 4);
}

static void store_blocks(word address, const word (&words)[4]) {
    const auto places = places_of_blocks(address);
    for (int index = 0; index < 4; ++index) memcpy(places[index], &words[index], 4);
}

static void show_to_products() {}
static void begin_products() {}

static wide_word swizzled_at(word address, word along_rows) {
    return static_cast<wide_word>((address & 0x3FFFF) >> 4) | 1ull << 16 |
           static_cast<wide_word>(along_rows >> 4) << 32 | 1ull << 62;
}

static wide_word matrix_at(word address, word along_channels, word along_rows) {
    return static_cast<wide_word>((address & 0x3FFFF) >> 4) | static_cast<wide_word>(along_channels >> 4) << 16 |
           static_cast<wide_word>(along_rows >> 4) << 32;
}

static float as_float(value one) {
    _Float16 made;
    memcpy(&made, &one, 2);
    return made;
}

static word packed(float first, float second) {
    const _Float16 two[2] = {static_cast<_Float16>(first), static_cast<_Float16>(second)};
    word made;
    memcpy(&made, two, 4);
    return made;
}

#define DEPTH (EIGHT_BIT ? 32 : 16)  // channels of a product

static float of_eight_bits(unsigned char made) {
    const int exponent = made >> 3 & 15, mantissa = made & 7;
    if ((made & 127) == 127) return NAN;
    const float size = exponent ? ldexpf(8 + mantissa, exponent - 10) : ldexpf(mantissa, -9);
    return made >> 7 ? -size : size;
}

// 32 bytes of channels of a row of a matrix.
static void read_row(wide_word matrix, int row, float (&channels)[DEPTH]) {
    const word start = (matrix & 0x3FFF) << 4, along_channels = (matrix >> 16 & 0x3FFF) << 4;
    const word along_rows = (matrix >> 32 & 0x3FFF) << 4;
    for (int eight = 0; eight < 2; ++eight) {
        word place = start + eight * along_channels + row / 8 * along_rows + row % 8 * 16;
        if (matrix >> 62) {
            place = start + row / 8 * along_rows + row % 8 * 128 + eight * 16;
            place ^= (place >> 7 & 7) << 4;
        }
        for (int channel = 0; channel < DEPTH / 2; ++channel) {
#if EIGHT_BIT
            channels[eight * 16 + channel] = of_eight_bits(shared[place + channel]);
#else
            value found;
            memcpy(&found, shared + place + channel * 2, 2);
            channels[eight * 8 + channel] = as_float(found);
#endif
        }
    }
}

static void carry_out(const Product& product) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    float pixels[2][DEPTH], columns[DEPTH];
    for (int half = 0; half < 2; ++half) read_row(product.a, warp * 16 + lane / 4 + half * 8, pixels[half]);
    for (int two = 0; two < GROUP_COLUMNS / 4; ++two) {
        read_row(product.b, two / 2 * 8 + lane % 4 * 2 + two % 2, columns);
        for (int half = 0; half < 2; ++half) {
            const int index = two / 2 * 4 + half * 2 + two % 2;
            float sum = product.adds ? product.sums[index] : 0.0f;
            for (int channel = 0; channel < DEPTH; ++channel) sum += pixels[half][channel] * columns[channel];
            product.sums[index] = sum;
        }
    }
}

template <int half>
static void multiply(float (&sums)[half], wide_word a, wide_word b, int adds) {
    mine().products.push_back({sums, a, b, adds});
}

template <int left>
static void wait_for_products() {
    auto& groups = mine().product_groups;
    for (; groups.size() > left; groups.pop_front())
        for (const Product& product : groups.front()) carry_out(product);
}

static void commit_products() {
    mine().product_groups.push_back(mine().products);
    mine().products.clear();
    if (!late) wait_for_products<0>();
}

static std::function<void()> work;

static void run_thread() {
    work();
    mine().ended = true;
    ++block->ended;
    swapcontext(&mine().context, &scheduler);
}

// All blocks of a cluster, until they have ended.
static void run_cluster(int blocks) {
    cluster = std::vector<Block>(blocks);
    of_cluster = Meeting();
    idle = 0;
    const int first = blockIdx.z;
    for (Block& each : cluster) {
        memset(each.memory, 0xFF, sizeof each.memory);  // of float16, no number
        each.threads = std::vector<Thread>(THREADS);
        for (Thread& thread : each.threads) {
            thread.stack.resize(1 << 16);
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.data();
            thread.context.uc_stack.ss_size = thread.stack.size();
            makecontext(&thread.context, run_thread, 0);
        }
    }
    for (bool any = true; any;) {
        any = false;
        for (int number = 0; number < blocks; ++number) {
            block = &cluster[number];
            blockIdx.z = first + number;
            if (block->ended == THREADS) continue;
            any = true;
            for (int index = 0; index < THREADS; ++index) {
                threadIdx.x = index;
                if (block->threads[index].ended) continue;
                swapcontext(&scheduler, &block->threads[index].context);
                if (failure) return;
            }
            if (block->ended < THREADS) continue;
            if (!block->loads.empty()) failure = "a box is on its way when its block ends";
            memset(block->memory, 0xFF, sizeof block->memory);  // which no other block can read any more
        }
    }
    blockIdx.z = first;
}

// Run `kernel` in so many blocks. Why it failed, or null.
static const char* launch(bool is_late, Number3 grid, const std::function<void()>& kernel) {
    late = is_late;
    failure = nullptr;
    work = kernel;
    gridDim = grid;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z += PARTS)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                if (!failure) run_cluster(PARTS);
    return failure;
}
