/* A PKCS #11 module in front of another one, whose faults a directory scripts.
 *
 * SHIM_MODULE   the real module
 * SHIM_DIR/calls      each call that is looked at, one name a line
 * SHIM_DIR/NAME       `CODE TIMES MILLIS`: the next TIMES calls of C_NAME wait MILLIS, then return CODE;
 *                     code 0 asks the real module
 * SHIM_DIR/locks      `TRIES`: the token counts wrong PINs and locks at the TRIES-th, as real ones do
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong_t;
typedef ulong_t (*function)(ulong_t, ulong_t, ulong_t, ulong_t, ulong_t, ulong_t);
struct list { unsigned char version[2]; function f[68]; };

enum { INITIALIZE = 0, GET_SLOT_LIST = 4, GET_TOKEN_INFO = 6, OPEN_SESSION = 12, LOGIN = 18, FIND_OBJECTS_INIT = 26,
       ENCRYPT_INIT = 29, ENCRYPT = 30, GENERATE_KEY = 58 };
enum { CKR_OK = 0, CKR_PIN_INCORRECT = 0xA0, CKR_PIN_LOCKED = 0xA4 };
enum { PIN_COUNT_LOW = 0x10000, PIN_FINAL_TRY = 0x20000, PIN_LOCKED = 0x40000 };

static struct list real, shim;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static FILE *open_file(const char *name, const char *mode) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("SHIM_DIR"), name);
    return fopen(path, mode);
}

static ulong_t number(const char *name) {
    ulong_t value = 0;
    FILE *file = open_file(name, "r");
    if (file) {
        if (fscanf(file, "%li", (long *)&value) != 1) value = 0;
        fclose(file);
    }
    return value;
}

/* What the script has for a call: its code, or -1 to ask the real module. */
static long scripted(const char *name) {
    long code = -1, times = 0, millis = 0;
    pthread_mutex_lock(&lock);
    FILE *calls = open_file("calls", "a");
    if (calls) { fprintf(calls, "%s\n", name); fclose(calls); }
    FILE *script = open_file(name, "r");
    if (script) {
        if (fscanf(script, "%li %li %li", &code, &times, &millis) < 2) times = 0;
        fclose(script);
    }
    if (times > 0 && (script = open_file(name, "w"))) {
        fprintf(script, "%li %li %li", code, times - 1, millis);
        fclose(script);
    }
    pthread_mutex_unlock(&lock);
    if (times <= 0) return -1;
    struct timespec wait = { millis / 1000, millis % 1000 * 1000000 };
    nanosleep(&wait, NULL);
    return code == 0 ? -1 : code;
}

#define PASS(index, name)                                                                       \
    static ulong_t call_##index(ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f) { \
        long code = scripted(name);                                                             \
        return code >= 0 ? (ulong_t)code : real.f[index](a, b, c, d, e, f);                     \
    }
PASS(INITIALIZE, "Initialize")
PASS(GET_SLOT_LIST, "GetSlotList")
PASS(OPEN_SESSION, "OpenSession")
PASS(FIND_OBJECTS_INIT, "FindObjectsInit")
PASS(ENCRYPT_INIT, "EncryptInit")
PASS(ENCRYPT, "Encrypt")
PASS(GENERATE_KEY, "GenerateKey")

static ulong_t token_info(ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f) {
    long code = scripted("GetTokenInfo");
    if (code >= 0) return (ulong_t)code;
    ulong_t result = real.f[GET_TOKEN_INFO](a, b, c, d, e, f);
    ulong_t tries = number("locks"), wrong = number("wrong");
    if (result == CKR_OK && tries) {
        /* label, manufacturer, model and serial number stand before the flags */
        ulong_t *flags = (ulong_t *)((char *)b + 96);
        *flags &= ~(ulong_t)(PIN_COUNT_LOW | PIN_FINAL_TRY | PIN_LOCKED);
        if (wrong) *flags |= PIN_COUNT_LOW;
        if (wrong + 1 == tries) *flags |= PIN_FINAL_TRY;
        if (wrong >= tries) *flags |= PIN_LOCKED;
    }
    return result;
}

static ulong_t login(ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f) {
    long code = scripted("Login");
    if (code >= 0) return (ulong_t)code;
    ulong_t tries = number("locks"), wrong = number("wrong");
    if (tries && wrong >= tries) return CKR_PIN_LOCKED;
    ulong_t result = real.f[LOGIN](a, b, c, d, e, f);
    FILE *count = tries ? open_file("wrong", "w") : NULL;
    if (count) {
        fprintf(count, "%lu", result == CKR_PIN_INCORRECT ? wrong + 1 : 0);
        fclose(count);
    }
    return result;
}

ulong_t C_GetFunctionList(struct list **out) {
    void *library = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
    ulong_t (*get)(struct list **) = library ? (ulong_t (*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
    struct list *found;
    if (!get || get(&found) != CKR_OK) return 5;
    real = shim = *found;
    shim.f[INITIALIZE] = call_INITIALIZE;
    shim.f[GET_SLOT_LIST] = call_GET_SLOT_LIST;
    shim.f[GET_TOKEN_INFO] = token_info;
    shim.f[OPEN_SESSION] = call_OPEN_SESSION;
    shim.f[LOGIN] = login;
    shim.f[FIND_OBJECTS_INIT] = call_FIND_OBJECTS_INIT;
    shim.f[ENCRYPT_INIT] = call_ENCRYPT_INIT;
    shim.f[ENCRYPT] = call_ENCRYPT;
    shim.f[GENERATE_KEY] = call_GENERATE_KEY;
    *out = &shim;
    return CKR_OK;
}
