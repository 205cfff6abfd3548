# cmake -DOUTPUT=FILE.cc -DHEADER=PATH -DNAMESPACE=NAME "-DTEXTS=kName|FILE,kName|FILE..." -P EmbedTexts.cmake
# Writes a source that defines each constant, declared in HEADER, as the text of its file.
cmake_minimum_required(VERSION 3.25)
set(source "// Made by cmake/EmbedTexts.cmake.\n#include \"${HEADER}\"\n\nnamespace ${NAMESPACE} {\n")
string(REPLACE "," ";" texts "${TEXTS}")
foreach(entry IN LISTS texts)
  string(REPLACE "|" ";" parts "${entry}")
  list(GET parts 0 name)
  list(GET parts 1 file)
  file(READ "${file}" text)
  string(REGEX REPLACE "sourceMappingURL=[^ \n]*" "" text "${text}") # what only a debugger would fetch
  string(APPEND source "\nconst std::string_view ${name} = R\"LOCKSTEP(${text})LOCKSTEP\";\n")
endforeach()
string(APPEND source "\n}  // namespace ${NAMESPACE}\n")
file(WRITE "${OUTPUT}" "${source}")
