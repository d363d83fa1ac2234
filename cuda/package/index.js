// The path of the library, which rankone opens.
const path = require('node:path');

module.exports = path.join(__dirname, 'rankone_cuda.so');
