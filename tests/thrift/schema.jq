# The structs of parquet.thrift, from `thrift --gen json`, as rows of the C++ array `schema`.
def wire: {bool: "T_BOOL", i8: "T_BYTE", byte: "T_BYTE", i16: "T_I16", i32: "T_I32", i64: "T_I64",
           double: "T_DOUBLE", string: "T_STRING", binary: "T_STRING", list: "T_LIST",
           struct: "T_STRUCT", union: "T_STRUCT"}[.] // error("no row for type \(.)");
.structs[] | . as $struct | .fields[]
| (if $struct.isUnion then "UNION" elif .required == "required" then "REQUIRED"
   else "OPTIONAL" end) as $presence
| "{\($struct.name | tojson), \(.key), \(.name | tojson), \(.typeId | wire), "
  + "\(.type.elemTypeId // "" | if . == "" then "T_STOP" else wire end), "
  + "\(.type.class // .type.elemType.class // "" | tojson), \($presence)},"
