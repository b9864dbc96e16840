/*
 * The boundary between connect-migrator's step host and a plugin, version 1.1.
 *
 * A plugin is a shared library that exports connect_migrator_plugin_v1(). Plugins in Rust do not need this file: the macro
 * export_plugin! of the crate connect-migrator-sdk writes everything below.
 *
 * Rules
 *  - Every struct begins with its size (the descriptor: with magic and size). Set it to sizeof(the struct) as you know it.
 *    New members come at the end only. Never read members of the other side's struct beyond its size.
 *  - Payloads are UTF-8 JSON without a terminating zero; their shapes are in frames.schema.json (installed: in
 *    /usr/share/connect-migrator). Its "to-step-host" has what a call is given, "answers" what each call must answer.
 *  - A cm_text belongs to the side that passes it, and is valid until the function returns.
 *  - A cm_buffer belongs to the side that receives it, which gives it back to the free() of the side that made it.
 *  - No exception, longjmp or panic may leave a function.
 *  - The step host is a process of its own, makes one call, and ends. The library is never unloaded. When the daemon ends, a
 *    call that changes things goes on where steps run in units of their own (a request to the daemon then waits for the next
 *    one, for minutes); any other process ends at once, wherever it is.
 */
#ifndef CONNECT_MIGRATOR_PLUGIN_H
#define CONNECT_MIGRATOR_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CM_MAGIC UINT64_C(0x434d504c5547494e) /* "CMPLUGIN", read as a big-endian number */
#define CM_ABI_MAJOR 1
#define CM_ABI_MINOR 1

/* Bytes of the other side. ptr may be NULL when len is 0. */
typedef struct cm_text {
    const uint8_t *ptr;
    size_t len;
} cm_text;

/* Bytes that are handed over. Empty: { NULL, 0 }. */
typedef struct cm_buffer {
    uint8_t *ptr;
    size_t len;
} cm_buffer;

/* Levels of cm_host.log */
#define CM_LOG_DEBUG 0
#define CM_LOG_INFO 1
#define CM_LOG_WARN 2
#define CM_LOG_ERROR 3

/* What a plugin may ask for while call() runs, from any of its threads. */
typedef struct cm_host {
    uint64_t size; /* bytes of this struct as the step host knows it */
    void *ctx;     /* pass it to every function */

    /* A log line. fields: a JSON object, or empty. No secrets. */
    void (*log)(void *ctx, uint32_t level, cm_text message, cm_text fields);
    /* {"doing": "pulling layers", "done": 3, "total": 7, "unit": "layers"}; all but doing may be left out. */
    void (*progress)(void *ctx, cm_text progress);
    /* Any JSON: what is needed to put back the change that comes NEXT. Returns when it is durable: {"ok": null};
     * or {"refused": "why"}: then change nothing. */
    cm_buffer (*record_undo)(void *ctx, cm_text record);
    /* Any JSON: where to go on after a crash. Answers as record_undo does. */
    cm_buffer (*checkpoint)(void *ctx, cm_text checkpoint);
    /* The name of a credential, plain. {"ok": "value"} or {"refused": "why"}. */
    cm_buffer (*secret)(void *ctx, cm_text credential);
    /* 1 when the call should end as soon as it safely can. */
    uint8_t (*is_cancelled)(void *ctx);
    /* Takes back what the functions above returned, and wipes it. */
    void (*free)(void *ctx, cm_buffer buffer);
} cm_host;

/* The plugin's functions. Callable from any thread; the table lives as long as the library. */
typedef struct cm_vtable {
    uint64_t size; /* sizeof(cm_vtable) */

    /* {"ok": {"plugin": name, "version": v, "sdk": v, "steps": [...]}}. No I/O. */
    cm_buffer (*describe)(void);
    /* One call: request is an Invocation. request and host are valid until the return.
     * {"ok": answer}, {"error": {"tried": "...", "why": "...", "remedy": "...", "cancelled": false}} or {"panic": "text"} */
    cm_buffer (*call)(cm_text request, const cm_host *host);
    /* Takes back what describe and call returned. */
    void (*free)(cm_buffer buffer);

    /* Since 1.1, may be NULL: the running call should end as soon as it safely can. Called from another thread than the one
     * that runs call(); must return at once. host->is_cancelled() answers 1 from then on. */
    void (*cancel)(void);
} cm_vtable;

/* Who the plugin is. Lives as long as the library. */
typedef struct cm_descriptor {
    uint64_t magic;       /* CM_MAGIC */
    uint32_t struct_size; /* sizeof(cm_descriptor) */
    uint16_t abi_major;   /* CM_ABI_MAJOR */
    uint16_t abi_minor;   /* CM_ABI_MINOR */
    cm_text sdk;          /* what it was written with; shown in messages */
    cm_text compiler;     /* shown in messages */
    cm_text name;         /* as in uses = "name/step" */
    const cm_vtable *vtable;
} cm_descriptor;

/* The exported function. Its name carries the major version. */
const cm_descriptor *connect_migrator_plugin_v1(void);

#ifdef __cplusplus
}
#endif

#endif
