# Source build of `npm install`: the CPU engine, needs a C++20 compiler (gcc or clang), make and python3.
# RANKONE_CFLAGS and RANKONE_LDFLAGS add flags, for sanitizers.
{
  "variables": {
    "extra_cflags": "<!(node -p \"process.env.RANKONE_CFLAGS || ''\")",
    "extra_ldflags": "<!(node -p \"process.env.RANKONE_LDFLAGS || ''\")",
  },
  "targets": [
    {
      "target_name": "rankone",
      "sources": ["<!@(node -p \"require('./sources.json').cpu.join(' ')\")"],
      "defines": ["<!@(node -p \"require('./sources.json').defines.join(' ')\")"],
      "include_dirs": ["cpp", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": [
        "-std=c++20", "-O3", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized",
        "-fvisibility=hidden",
        "<(extra_cflags)",
      ],
      "conditions": [
        ["OS=='linux'", {
          # The engine's threads outlive the environment that loaded it; a symbol that is missing shall show at load.
          "ldflags": ["-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,--gc-sections", "<(extra_ldflags)"],
        }],
        ["OS=='mac'", {
          "xcode_settings": {
            "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
            "CLANG_CXX_LIBRARY": "libc++",
            "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
            "GCC_ENABLE_CPP_RTTI": "YES",
            "GCC_OPTIMIZATION_LEVEL": "3",
            "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
            "MACOSX_DEPLOYMENT_TARGET": "11.0",
            "OTHER_CPLUSPLUSFLAGS": ["-fno-math-errno", "-Wno-psabi", "<(extra_cflags)"],
          },
        }],
        ["OS=='win'", {
          # MSVC has no per-function targets, so a source build cannot work there.
          "sources!": ["<!(node -e \"console.error('rankone cannot be built from source on Windows; it needs a prebuilt binary');process.exit(1)\")"],
        }],
      ],
    },
  ],
}
