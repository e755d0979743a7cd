/* Name what is in the images of an .npy file, with onnxruntime's C API.
 *
 * classify MODEL IMAGES.npy [--output NAME --save FILE]
 *   IMAGES.npy: uint8 (n, pixels), or little-endian float32 in 0...1, as the model takes
 *   NAME: probabilities; the exact model also has logits and class
 *   FILE: gets that output, raw
 */

#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_CLASSES = 1000 };

static const OrtApi *ort;

/* Every call of the API returns a status: NULL, or an error to report. */
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
static void *read_npy(const char *path, const char *dtype, size_t size, int64_t pixels, int *count)
{
    char format[100];
    unsigned char start[10] = {0};
    char header[65536] = "";
    int columns = 0, end = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return fail("cannot be opened", path);
    fread(start, 1, sizeof start, file);
    fread(header, 1, start[8] + 256u * start[9], file);
    sprintf(format, "{'descr': '%s', 'fortran_order': False, 'shape': (%%d, %%d), }%%n", dtype);
    sscanf(header, format, count, &columns, &end);
    if (memcmp(start, "\x93NUMPY\x01", 7) != 0 || end == 0 || columns != pixels || *count < 1)
        return fail(size == 1 ? "expected an .npy file of uint8 (n, pixels) in C order"
                              : "expected an .npy file of float32 (n, pixels) in C order",
                    path);
    size_t values = (size_t)*count * (size_t)pixels;
    void *images = malloc(values * size);
    if (images == NULL || fread(images, size, values, file) != values)
        return fail("cannot be read whole", path);
    fclose(file);
    return images;
}

/* Read the strings of the first list. (For names with quotes or escapes, take a JSON library.) */
static int read_names(const char *json, char names[MAX_CLASSES][64])
{
    char after = ',';
    int count = 0, used;
    const char *at = strchr(json, '[');
    for (; at != NULL && after == ',' && count < MAX_CLASSES; count++, at += used)
        if (sscanf(at + 1, " \"%63[^\"]\" %c%n", names[count], &after, &used) != 2)
            break;
    return count;
}

int main(int argc, char **argv)
{
    static char names[MAX_CLASSES][64];
    if (argc != 3 && argc != 7) {
        fprintf(stderr, "usage: %s MODEL IMAGES.npy [--output NAME --save FILE]\n", argv[0]);
        return 2;
    }
    const char *const name = argc == 7 ? argv[4] : "probabilities";
    const OrtApiBase *base = OrtGetApiBase();
    ort = base->GetApi(ORT_API_VERSION);
    if (ort == NULL)
        fail("the library is older than the header", base->GetVersionString());
    OrtEnv *environment;
    OrtSessionOptions *options;
    OrtSession *session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "classify", &environment));
    check(ort->CreateSessionOptions(&options));
    check(ort->CreateSession(environment, argv[1], options, &session));

    OrtModelMetadata *metadata;
    OrtAllocator *allocator;
    char *json = NULL;
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    check(ort->SessionGetModelMetadata(session, &metadata));
    check(ort->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "class_names", &json));
    const int classes = read_names(json == NULL ? "" : json, names);

    OrtTypeInfo *input;
    const OrtTensorTypeAndShapeInfo *tensor;
    int64_t shape[2]; /* -1 for N, pixels */
    check(ort->SessionGetInputTypeInfo(session, 0, &input));
    check(ort->CastTypeInfoToTensorInfo(input, &tensor));
    check(ort->GetDimensions(tensor, shape, 2));
    ONNXTensorElementDataType type;
    check(ort->GetTensorElementType(tensor, &type));
    const int bytes = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    const size_t size = bytes ? 1 : sizeof(float);
    int count;
    void *images = read_npy(argv[2], bytes ? "|u1" : "<f4", size, shape[1], &count);
    shape[0] = count;

    OrtMemoryInfo *memory;
    OrtValue *image, *output = NULL;
    const size_t length = (size_t)(shape[0] * shape[1]) * size;
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, images, length, shape, 2, type, &image));

    const double start = now();
    check(ort->Run(session, NULL, (const char *const[]){"image"}, (const OrtValue *const[]){image},
                   1, &name, 1, &output));
    const double seconds = now() - start;
    OrtTensorTypeAndShapeInfo *info;
    size_t values;
    void *answers;
    check(ort->GetTensorTypeAndShape(output, &info));
    check(ort->GetTensorShapeElementCount(info, &values));
    check(ort->GetTensorElementType(info, &type));
    check(ort->GetTensorMutableData(output, &answers));
    const int by_class = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; /* `class` is int64 */
    if (by_class && values != (size_t)count * (size_t)classes)
        fail("expected a name for each class in the metadata", argv[1]);

    for (int number = 0; by_class && number < count && number < 5; number++) {
        const float *row = (const float *)answers + number * classes;
        int best = 0;
        for (int class = 1; class < classes; class++)
            if (row[class] > row[best])
                best = class;
        printf("image %d: %s, %.3f\n", number, names[best], row[best]);
    }
    printf("onnxruntime-c %s: %d images in %.4f s\n", base->GetVersionString(), count, seconds);
    if (argc == 7) {
        FILE *file = fopen(argv[6], "wb");
        if (file == NULL || fwrite(answers, by_class ? 4 : 8, values, file) != values
            || fclose(file) != 0)
            fail("cannot be written", argv[6]);
    }
    ort->ReleaseTensorTypeAndShapeInfo(info);
    ort->ReleaseValue(output);
    ort->ReleaseValue(image);
    ort->ReleaseMemoryInfo(memory);
    check(ort->AllocatorFree(allocator, json));
    ort->ReleaseTypeInfo(input);
    ort->ReleaseModelMetadata(metadata);
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(environment);
    free(images);
    return 0;
}
