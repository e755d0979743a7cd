/* Name what is in the images of an .npy file, with onnxruntime's C API.
 *
 * classify MODEL IMAGES.npy [--probabilities FILE]
 *   IMAGES.npy: float32 (n, 784) in 0...1, little-endian, as NumPy writes it
 *   FILE: gets raw float32 (n, 10)
 */

#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PIXELS = 784, CLASSES = 10 };

/* The model's metadata hold the names as JSON, which C cannot read by itself. */
static const char *const NAMES[CLASSES] = {
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
};

static const OrtApi *ort;

/* Every call of the API gives a status: NULL, or an error to be said. */
static void check(OrtStatus *status)
{
    if (status == NULL)
        return;
    fprintf(stderr, "classify: %s\n", ort->GetErrorMessage(status));
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *fail(const char *what, const char *path)
{
    fprintf(stderr, "classify: %s: %s\n", path, what);
    exit(1);
}

/* NumPy's format: 8 bytes, the header's length as uint16, the header, then the array. */
static float *read_npy(const char *path, int *count)
{
    unsigned char start[10];
    char header[65536] = "";
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return fail("cannot be opened", path);
    if (fread(start, 1, sizeof start, file) != sizeof start || memcmp(start, "\x93NUMPY", 6) != 0)
        return fail("expected an .npy file", path);
    size_t length = start[8] + 256u * start[9];
    if (fread(header, 1, length, file) != length || strstr(header, "'<f4'") == NULL)
        return fail("expected float32 values", path);
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file) - sizeof start - length;
    float *images = malloc(bytes);
    fseek(file, (long)(sizeof start + length), SEEK_SET);
    if (images == NULL || fread(images, 1, bytes, file) != bytes)
        return fail("cannot be read whole", path);
    fclose(file);
    *count = (int)(bytes / (PIXELS * sizeof(float)));
    return images;
}

int main(int argc, char **argv)
{
    if (argc != 3 && !(argc == 5 && strcmp(argv[3], "--probabilities") == 0)) {
        fprintf(stderr, "usage: %s MODEL IMAGES.npy [--probabilities FILE]\n", argv[0]);
        return 2;
    }
    int count;
    float *images = read_npy(argv[2], &count);

    const OrtApiBase *base = OrtGetApiBase();
    ort = base->GetApi(ORT_API_VERSION);
    if (ort == NULL)
        fail("the library is older than the header", base->GetVersionString());
    OrtEnv *environment;
    OrtSessionOptions *options;
    OrtSession *session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "classify", &environment));
    check(ort->CreateSessionOptions(&options));
    check(ort->CreateSession(environment, argv[1], options, &session));

    OrtMemoryInfo *memory;
    OrtValue *image, *output = NULL;
    const int64_t shape[] = {count, PIXELS};
    const size_t bytes = (size_t)count * PIXELS * sizeof(float);
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, images, bytes, shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &image));

    const double start = now();
    check(ort->Run(session, NULL, (const char *const[]){"image"}, (const OrtValue *const[]){image},
                   1, (const char *const[]){"probabilities"}, 1, &output));
    const double seconds = now() - start;
    float(*probabilities)[CLASSES];
    check(ort->GetTensorMutableData(output, (void **)&probabilities));

    for (int number = 0; number < count && number < 5; number++) {
        int best = 0;
        for (int class = 1; class < CLASSES; class++)
            if (probabilities[number][class] > probabilities[number][best])
                best = class;
        printf("image %d: %s, %.3f\n", number, NAMES[best], probabilities[number][best]);
    }
    printf("onnxruntime-c %s: %d images in %.4f s\n", base->GetVersionString(), count, seconds);
    if (argc == 5) {
        FILE *file = fopen(argv[4], "wb");
        if (file == NULL
            || fwrite(probabilities, sizeof *probabilities, (size_t)count, file) != (size_t)count
            || fclose(file) != 0)
            fail("cannot be written", argv[4]);
    }
    ort->ReleaseValue(output);
    ort->ReleaseValue(image);
    ort->ReleaseMemoryInfo(memory);
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(environment);
    free(images);
    return 0;
}
